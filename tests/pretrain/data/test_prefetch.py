"""The loader keeps order, brings errors to the caller, stops when it is told to, and counts the time it was waited for."""

import threading
import time

import pytest

from biomlm.pretrain.data.prefetch import Loader


def test_steps_come_in_order() -> None:
    with Loader(lambda step: step * step, 3, 50) as loader:
        assert [loader.take() for _ in range(47)] == [n * n for n in range(3, 50)]


def test_no_more_than_a_few_steps_lie_ready() -> None:
    made: list[int] = []
    with Loader(made.append, 0, 100, ahead=3) as loader:
        deadline = time.monotonic() + 5
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        loader.take()
        time.sleep(0.05)
        assert len(made) <= 3 + 1 + 1, "ready, in the making, and the one taken"


def test_an_error_reaches_the_step_that_it_belongs_to() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("damaged")
        return step

    with Loader(make, 0, 10) as loader:
        assert [loader.take(), loader.take()] == [0, 1]
        with pytest.raises(ValueError, match="damaged"):
            loader.take()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_its_thread_ends_with_the_block(error: type[BaseException]) -> None:
    with pytest.raises(error), Loader(lambda step: step, 0, 10**9) as loader:
        loader.take()
        raise error
    assert not loader.thread.is_alive()
    assert "loader" not in {thread.name for thread in threading.enumerate()}


def test_waiting_is_counted() -> None:
    def slow(step: int) -> int:
        time.sleep(0.02)
        return step

    with Loader(slow, 0, 5) as loader:
        for _ in range(5):
            loader.take()
        assert loader.waited > 0.05
    with Loader(lambda step: step, 0, 5) as loader:
        for _ in range(5):
            time.sleep(0.01)
            loader.take()
        assert loader.waited < 0.02
