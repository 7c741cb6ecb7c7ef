"""The next steps' batches, made by a thread while the device computes.

A step's batches are a function of its number (`pretrain.data.batches`), so the thread changes neither their order nor their bits; it only
makes them early. NumPy lets go of the interpreter's lock in what takes long here (gathers, hashes, sorts).
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

AHEAD = 2  # steps made before they are asked for
PATIENCE = 0.1  # seconds after which a thread that waits looks whether it should stop


class Prefetcher(Generic[T]):
    """Calls a function for consecutive steps in a thread of its own.

    Args:
        make: Step → what that step needs.
        first: The first step.
        stop: The step behind the last one.
        ahead: How many steps may lie ready.
    """

    def __init__(self, make: Callable[[int], T], first: int, stop: int, ahead: int = AHEAD):
        self.make, self.first, self.stop = make, first, stop
        self.ready: queue.Queue[T | BaseException] = queue.Queue(ahead)
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._work, name="prefetcher", daemon=True)
        self.waited = 0.0
        self.left = stop - first

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Wait for what the next step needs, and add the time that takes to `waited` (seconds).

        Raises:
            BaseException: Whatever `make` raised for this step.
        """
        if not self.left:
            raise StopIteration
        self.left -= 1
        start = time.perf_counter()
        item = self.ready.get()
        self.waited += time.perf_counter() - start
        if isinstance(item, BaseException):
            raise item
        return item

    def _work(self) -> None:
        for step in range(self.first, self.stop):
            try:
                item: T | BaseException = self.make(step)
            except BaseException as error:  # it belongs to the thread that asks for this step
                item = error
            while not self.closed.is_set():
                try:
                    self.ready.put(item, timeout=PATIENCE)
                    break
                except queue.Full:
                    continue
            if self.closed.is_set() or isinstance(item, BaseException):
                return

    def __enter__(self) -> "Prefetcher[T]":
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed.set()
        while not self.ready.empty():  # a thread that waits for room sees at once that it should stop
            self.ready.get()
        self.thread.join()
