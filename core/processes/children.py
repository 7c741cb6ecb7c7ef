"""Start processes of ours such that neither the current folder nor a signal takes them by surprise.

Python is started with `-P`, so that a module in the current folder is never taken for one of a package's. A child begins with the signals
that stop a command blocked; they wait until `cli.main` has its handlers and lets them through. And the kernel sends it SIGTERM when its
parent is gone, however that ended, so that nothing goes on that nobody waits for.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from biomlm.core.errors import TemporaryError
from biomlm.core.processes.signals import heard_signals

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


def python(*words: str) -> list[str]:
    """Build the command of a process of this very Python, to which the current folder is nothing."""
    return [sys.executable, "-P", *words]


def biomlm_command(*words: str) -> list[str]:
    """Build the command of `biomlm` of this very Python, be its script on the PATH or not."""
    return python("-m", "biomlm.core", *words)


def exit_code(returned: int) -> int:
    """Return a child's exit code as a shell has it: 128 and the signal's number for one that was killed."""
    return returned if returned >= 0 else 128 - returned


def dying_with_parent() -> Callable[[], None]:
    """Return a `preexec_fn` that has the kernel send SIGTERM to a child when this process is gone; nothing off Linux."""
    parent, prctl = os.getpid(), getattr(ctypes.CDLL(None), "prctl", None)

    def ask() -> None:
        if prctl is not None:
            prctl(DIE_WITH_PARENT, signal.SIGTERM)
            if os.getppid() != parent:  # gone already
                os._exit(TemporaryError.exit_code)

    return ask


@contextmanager
def signals_passed_on(send: Callable[[int], None]) -> Iterator[None]:
    """Pass the signals that stop a command on to a child while this lasts, and answer the first of them oneself when it is over."""
    numbers: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        numbers.append(number)
        send(number)

    before = {number: signal.signal(number, note) for number in heard_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if numbers:
        signal.raise_signal(numbers[0])
