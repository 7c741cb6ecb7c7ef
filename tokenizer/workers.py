"""Run a pool of worker processes, and report when the system ends one of them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from biomlm.core.errors import DataError
from biomlm.core.processes.signals import prepare_workers, stay

CONTEXT = get_context("spawn")  # a fork would copy locks that threads of this process hold


@contextmanager
def pool(workers: int, start: Callable[..., None], *values: Any) -> Iterator[ProcessPoolExecutor]:
    """Start processes, each of which calls `start(*values)` first.

    Raises:
        DataError: One of them was ended by the system, for want of memory as a rule.
    """
    prepare_workers()
    try:
        with ProcessPoolExecutor(workers, CONTEXT, initializer=_start, initargs=(start, *values)) as executor:
            try:
                yield executor
            except BaseException:
                executor.shutdown(wait=False, cancel_futures=True)  # only what runs is waited for
                raise
    except BrokenProcessPool:
        raise DataError(
            f"one of {workers} workers was ended by the system, most likely for want of memory",
            remedy="Give fewer --workers and run the same command again.",
        ) from None


def _start(start: Callable[..., None], *values: Any) -> None:
    stay()
    start(*values)
