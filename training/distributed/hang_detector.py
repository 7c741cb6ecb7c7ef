"""Name the rank that a run waits for in vain.

Every rank counts its collective operations (heartbeats), and a thread reports the count when another rank asks. A rank that does not
answer has died or is frozen; the one with the fewest heartbeats hangs, and reports in which line. The thread asks when its own rank has
had no heartbeat for the whole timeout, and then ends the process, since a rank that waits inside a collective cannot be woken; the same
command, or torchrun's elastic agent, goes on from the last checkpoint. It works from the moment when the ranks have met to their end.
"""

import os
import sys
import threading
import time
from typing import Protocol

import orjson
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from biomlm.core import manifest
from biomlm.core.errors import TemporaryError

ANSWER = 10.0  # seconds that a rank has to answer
LOOK = 0.2  # seconds between looks
LINGER = 1.0  # seconds that rank 0, which keeps the store, stays for others that ask too
MEETINGS = 2  # of a step
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


class HangDetector:
    """One rank's count of heartbeats, and its answers.

    Args:
        world: The ranks; alone, there is nothing to watch.
    """

    def __init__(self, world: Ranks):
        self.world, self.what = world, "biomlm"
        self.count, self.moved = 0, time.monotonic()
        self.failed = False  # whether an exchange has, in which this rank was
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._work, name="hang detector", daemon=True)

    def heartbeat(self) -> None:
        """Count a collective operation that this rank enters, two a step: the all-reduce of counts, then of gradients."""
        self.count += 1
        self.moves()

    def moves(self) -> None:
        """Take note that this rank gets on."""
        self.moved = time.monotonic()

    def _answer(self) -> str:
        """Return the heartbeats, whether this rank is inside a collective, and the line of ours that its main thread runs, as JSON."""
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        meets = self.failed or (frame is not None and MEETING in frame.f_code.co_filename)
        while frame is not None and not frame.f_globals.get("__name__", "").startswith("biomlm."):
            frame = frame.f_back
        line = "" if frame is None else f"{frame.f_globals['__name__']}:{frame.f_lineno}"
        return orjson.dumps([self.count, meets, line]).decode()

    def describe_hang(self) -> str:
        """Ask all ranks for their heartbeats, and say in words which one holds the run up."""
        store = self.world.store
        assert store is not None, "a rank that is alone waits for nobody"
        others = [rank for rank in range(self.world.size) if rank != self.world.rank]
        answers = {self.world.rank: orjson.loads(self._answer())}
        try:
            store.set(f"watch/{self.world.rank}", self._answer())  # while this thread asks, it cannot answer
            store.set("watch/asked", "1")
            deadline = time.monotonic() + ANSWER
            while len(answers) < self.world.size and time.monotonic() < deadline:
                time.sleep(LOOK / 4)  # polled: a client that waits keeps this process's own thread from answering
                for rank in others:
                    if rank not in answers and store.check([f"watch/{rank}"]):
                        answers[rank] = orjson.loads(store.get(f"watch/{rank}"))
            if self.world.rank == 0:
                time.sleep(LINGER)
        except RuntimeError:  # the store has gone with the rank that kept it
            return f"rank 0 of {self.world.size} has ended"
        if silent := [rank for rank in others if rank not in answers]:
            return f"rank {', '.join(map(str, silent))} of {self.world.size} has ended or is frozen"
        late = min(answers, key=lambda rank: answers[rank][:2])
        count, _, line = answers[late]
        return f"rank {late} of {self.world.size} hangs at step {count // MEETINGS + 1} of this process, in {line}"

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
                    store.set(f"watch/{self.world.rank}", self._answer())
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
