"""Which rank is named: the one that is behind, by its host or by its GPU; and none where none is. GPUs are played."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from biomlm.training.distributed import hang_detector as module
from biomlm.training.distributed.hang_detector import Answer, HangDetector, behind

STEP = 2 * 7  # heartbeats of seven steps


class Queue:
    """A GPU's queue, which is worked off up to a number of marks."""

    def __init__(self, done: int, broken: bool = False):
        self.done, self.broken, self.number = done, broken, 0

    def mark(self) -> "Queue.Mark":
        self.number += 1
        return self.Mark(self, self.number)

    class Mark:
        def __init__(self, queue: "Queue", number: int):
            self.queue, self.number = queue, number

        def query(self) -> bool:
            if self.queue.broken:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return self.number <= self.queue.done


def asked(monkeypatch: pytest.MonkeyPatch, asker: int, queues: list[Queue | None], beats: list[int]) -> str:
    """What one of two ranks says after these heartbeats; the other answers from its thread."""
    monkeypatch.setattr(module, "LINGER", 0.0)
    monkeypatch.setattr(module, "LOOK", 0.02)
    store = dist.HashStore()  # type: ignore[attr-defined]
    made = []
    for rank in (0, 1):
        world: Any = SimpleNamespace(rank=rank, size=2, store=store, is_main=rank == 0, timeout=1000.0)
        queue = queues[rank]
        made.append(HangDetector(world))
        made[-1].mark = None if queue is None else queue.mark
        for _ in range(beats[rank]):
            made[-1].heartbeat()
    other = threading.Thread(target=made[1 - asker]._work)
    other.start()
    try:
        return made[asker].describe_hang()
    finally:
        made[1 - asker].ended.set()
        other.join()


@pytest.mark.parametrize("asker", [0, 1])
def test_the_gpu_that_is_behind_is_named_whoever_asks(asker: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both hosts wait at the end of the same step."""
    said = asked(monkeypatch, asker, [Queue(STEP), Queue(STEP - 1)], [STEP, STEP])
    assert said.startswith("the GPU of rank 1 of 2 hangs at step 8 of this process")


@pytest.mark.parametrize("asker", [0, 1])
def test_a_gpu_that_has_failed_is_behind(asker: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said = asked(monkeypatch, asker, [Queue(STEP, broken=True), Queue(STEP)], [STEP, STEP])
    assert said.startswith("the GPU of rank 0 of 2 hangs")


@pytest.mark.parametrize("asker", [0, 1])
@pytest.mark.parametrize("gpus", [True, False])
def test_nobody_is_blamed_where_nobody_is_behind(gpus: bool, asker: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queues: list[Queue | None] = [Queue(STEP), Queue(STEP)] if gpus else [None, None]
    said = asked(monkeypatch, asker, queues, [STEP, STEP])
    assert said.startswith("no rank of 2 is behind the others at step 8 of this process")


@pytest.mark.parametrize("asker", [0, 1])
def test_a_host_that_is_behind_is_named_before_a_gpu(asker: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its GPU has worked off all that it was given."""
    said = asked(monkeypatch, asker, [Queue(STEP), Queue(STEP - 2)], [STEP, STEP - 2])
    assert said.startswith("rank 1 of 2 hangs at step 7 of this process, in ")


def test_a_rank_inside_a_collective_waits_for_one_outside() -> None:
    there, here = Answer(5, 5, True, "biomlm.a:1"), Answer(5, 5, False, "biomlm.b:2")
    assert behind({0: here, 1: there}) == "rank 0 of 2 hangs at step 3 of this process, in biomlm.b:2"
    assert behind({0: there, 1: here, 2: there}) == "rank 1 of 3 hangs at step 3 of this process, in biomlm.b:2"


def test_few_marks_are_kept() -> None:
    world: Any = SimpleNamespace(rank=0, size=2)
    made = HangDetector(world)
    made.mark = Queue(10**6).mark
    for _ in range(1000):
        made.heartbeat()
    assert len(made.marks) == module.MARKS
    assert made._reached() == 1000
