"""The prefetcher keeps order, brings errors to the caller, stops when it is told to, and counts the time it was waited for."""

import threading
import time

import pytest

from biomlm.training.prefetch import Prefetcher


def test_steps_come_in_order() -> None:
    with Prefetcher(lambda step: step * step, 3, 50) as prefetcher:
        assert [next(prefetcher) for _ in range(47)] == [n * n for n in range(3, 50)]


def test_no_more_than_a_few_steps_lie_ready() -> None:
    made: list[int] = []
    with Prefetcher(made.append, 0, 100, ahead=3) as prefetcher:
        deadline = time.monotonic() + 5
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        next(prefetcher)
        time.sleep(0.05)
        assert len(made) <= 3 + 1 + 1, "ready, in the making, and the one taken"


def test_an_error_reaches_the_step_that_it_belongs_to() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("damaged")
        return step

    with Prefetcher(make, 0, 10) as prefetcher:
        assert [next(prefetcher), next(prefetcher)] == [0, 1]
        with pytest.raises(ValueError, match="damaged"):
            next(prefetcher)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_its_thread_ends_with_the_block(error: type[BaseException]) -> None:
    with pytest.raises(error), Prefetcher(lambda step: step, 0, 10**9) as prefetcher:
        next(prefetcher)
        raise error
    assert not prefetcher.thread.is_alive()
    assert "prefetcher" not in {thread.name for thread in threading.enumerate()}


def test_waiting_is_counted() -> None:
    def slow(step: int) -> int:
        time.sleep(0.02)
        return step

    with Prefetcher(slow, 0, 5) as prefetcher:
        for _ in range(5):
            next(prefetcher)
        assert prefetcher.waited > 0.05
    with Prefetcher(lambda step: step, 0, 5) as prefetcher:
        for _ in range(5):
            time.sleep(0.01)
            next(prefetcher)
        assert prefetcher.waited < 0.02
