"""Name the rank that a run waits for in vain.

Every rank counts its collective operations (heartbeats), and a thread reports the count when another rank asks. A rank that does not
answer has died or is frozen; the one with the fewest heartbeats hangs, and reports in which line. With NCCL all hosts run ahead to the end
of a step and wait there, so a GPU's own progress counts too: an event in its queue at each heartbeat tells how far it has come. Where no
rank is behind the others, what is between them is at fault, and none is named. The thread asks when its own rank has had no heartbeat for
the whole timeout, and then ends the process, since a rank that waits inside a collective cannot be woken; the same command, or torchrun's
elastic agent, goes on from the last checkpoint. It works from the moment when the ranks have met to their end.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import orjson
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from biomlm.core import manifest
from biomlm.core.errors import TemporaryError

ANSWER = 10.0  # seconds that a rank has to answer
LOOK = 0.2  # seconds between looks
LINGER = 1.0  # seconds that rank 0, which keeps the store, stays for others that ask too
MEETINGS = 2  # of a step
MARKS = 8  # heartbeats whose events are kept: a step waits for the device, which so is never further behind
MEETING = "torch/distributed/"  # where a rank is that waits for the others inside a layer, as FSDP's do


class Ranks(Protocol):
    """What is asked of `process_group.World`."""

    rank: int
    size: int
    timeout: float
    store: Store | None


def is_lost(error: BaseException) -> bool:
    """Whether a failed exchange speaks, not a fault of ours."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


class Mark(Protocol):
    """A place in a GPU's queue."""

    def query(self) -> bool:
        """Whether the GPU has come to it."""


def cuda_mark() -> Mark:
    """Put a mark at the end of the current stream's queue."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


class Answer(NamedTuple):
    """How far a rank has come; of two the one further behind is the smaller.

    Args:
        beats: Its heartbeats.
        reached: Those that its GPU has come to; as many where it computes on a CPU.
        meets: Whether its main thread is inside a collective operation.
        line: The line of ours that it runs.
    """

    beats: int
    reached: int
    meets: bool
    line: str


class HangDetector:
    """One rank's count of heartbeats, and its answers.

    Args:
        world: The ranks; alone, there is nothing to watch.
    """

    def __init__(self, world: Ranks):
        self.world, self.what = world, "biomlm"
        self.mark: Callable[[], Mark] | None = None  # of a place in the queue of this rank's GPU; none on a CPU
        self.marks: deque[tuple[int, Mark]] = deque(maxlen=MARKS)
        self.count, self.moved = 0, time.monotonic()
        self.failed = False  # whether an exchange has, in which this rank was
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._work, name="hang detector", daemon=True)

    def heartbeat(self) -> None:
        """Count a collective operation that this rank enters, two a step: the all-reduce of counts, then of gradients."""
        self.count += 1
        self.moves()
        if self.mark is not None and self.world.size > 1:
            self.marks.append((self.count, self.mark()))

    def moves(self) -> None:
        """Take note that this rank gets on."""
        self.moved = time.monotonic()

    def _reached(self) -> int:
        """Return the heartbeats that the GPU has come to."""
        if self.mark is None:
            return self.count
        try:
            return max((count for count, mark in tuple(self.marks) if mark.query()), default=0)
        except RuntimeError:  # an error on the device, after which it does nothing more
            return 0

    def _answer(self) -> Answer:
        """Say how far this rank has come."""
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        meets = self.failed or (frame is not None and MEETING in frame.f_code.co_filename)
        while frame is not None and not frame.f_globals.get("__name__", "").startswith("biomlm."):
            frame = frame.f_back
        line = "" if frame is None else f"{frame.f_globals['__name__']}:{frame.f_lineno}"
        return Answer(self.count, self._reached(), meets, line)

    def describe_hang(self) -> str:
        """Ask all ranks for their heartbeats, and say in words which one holds the run up."""
        store = self.world.store
        assert store is not None, "a rank that is alone waits for nobody"
        others = [rank for rank in range(self.world.size) if rank != self.world.rank]
        answers = {self.world.rank: self._answer()}
        try:
            store.set(f"watch/{self.world.rank}", _told(self._answer()))  # while this thread asks, it cannot answer
            store.set("watch/asked", "1")
            deadline = time.monotonic() + ANSWER
            while len(answers) < self.world.size and time.monotonic() < deadline:
                time.sleep(LOOK / 4)  # polled: a client that waits keeps this process's own thread from answering
                for rank in others:
                    if rank not in answers and store.check([f"watch/{rank}"]):
                        answers[rank] = Answer(*orjson.loads(store.get(f"watch/{rank}")))
            if self.world.rank == 0:
                time.sleep(LINGER)
        except RuntimeError:  # the store has gone with the rank that kept it
            return f"rank 0 of {self.world.size} has ended"
        if silent := [rank for rank in others if rank not in answers]:
            return f"rank {', '.join(map(str, silent))} of {self.world.size} has ended or is frozen"
        return behind(answers)

    def explain(self, error: BaseException) -> TemporaryError | None:
        """Return the error to end with after an exchange that failed because a rank was lost; None for any other error."""
        if self.world.size == 1 or not is_lost(error):
            return None
        self.failed = True
        problem = f"{self.describe_hang()} ({str(error).splitlines()[0][:120]})"
        return TemporaryError(problem, remedy="The same command goes on from the last checkpoint.")

    def _work(self) -> None:
        store = self.world.store
        assert store is not None
        while not self.ended.wait(LOOK):
            try:
                if store.check(["watch/asked"]):
                    store.set(f"watch/{self.world.rank}", _told(self._answer()))
            except RuntimeError:
                return  # the store has gone, and its rank with it: the exchange itself fails
            if time.monotonic() - self.moved > self.world.timeout:
                print(
                    f"{self.what}: {self.describe_hang()}. The same command goes on from the last checkpoint.",
                    file=sys.stderr,
                )
                manifest.note_stop(manifest.LOST)
                os._exit(TemporaryError.exit_code)

    def start(self) -> None:
        """Answer and ask from now on."""
        self.thread.start()

    def stop(self) -> None:
        """Stop that."""
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join()


def behind(answers: Mapping[int, Answer]) -> str:
    """Say in words which rank holds the others up."""
    late = min(answers, key=lambda rank: answers[rank][:3])
    ranks, answer = len(answers), answers[late]
    step = f"step {answer.beats // MEETINGS + 1} of this process"
    if all(other[:3] == answer[:3] for other in answers.values()):
        return f"no rank of {ranks} is behind the others at {step}: the network between them hangs, or a GPU in its backward pass"
    if answer.reached < answer.beats and all(other.beats == answer.beats for other in answers.values()):
        return f"the GPU of rank {late} of {ranks} hangs at {step}, which waits for it in {answer.line}"
    return f"rank {late} of {ranks} hangs at {step}, in {answer.line}"


def _told(answer: Answer) -> str:
    return orjson.dumps(tuple(answer)).decode()
