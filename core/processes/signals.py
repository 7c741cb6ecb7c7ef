"""Answer the signals that stop a command: a batch system's, and Ctrl-C."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from types import FrameType

from biomlm.core.errors import TemporaryError

# What a batch system says to every process of a job when it is preempted or its time is up (SIGTERM), and ahead of that (SLURM's
# `--signal=USR1@120`).
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
STOPS = (*SIGNALS, signal.SIGINT)
ECHO = 1.0  # seconds within which the same signal again is the same wish: a terminal and a launcher both send it


class Echoes:
    """Tells a signal from its echo, which comes by another way at once."""

    def __init__(self) -> None:
        self.last: dict[int, float] = {}

    def is_new(self, number: int) -> bool:
        """Whether a signal that has just come is a wish of its own."""
        before, self.last[number] = self.last.get(number), time.monotonic()
        return before is None or self.last[number] - before > ECHO


def heard_signals() -> list[signal.Signals]:
    """List the signals that stop a command; not Ctrl-C for one that a shell started in the background."""
    return [number for number in STOPS if number in SIGNALS or signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Hold back the signals that stop a command, here and in children that are started now."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_signals_through() -> None:
    """Let signals through that a parent has blocked for the time without handlers."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def stop_on_signals() -> None:
    """Make a batch system's signals end a command as Ctrl-C does, with exit code 75 (training catches them itself, and saves)."""
    own, echoes = os.getpid(), Echoes()

    def leave(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != own:  # a fork of this process, whose end is nobody's wish to stop
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if not echoes.is_new(number):
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        message = f"\nbiomlm: stopped by {signal.Signals(number).name}. The same command goes on where it was.\n"
        os.write(2, message.encode())  # print is not to be entered twice
        raise SystemExit(TemporaryError.exit_code)  # no `except Exception` takes it for a fault of what was being done

    for number in heard_signals():
        signal.signal(number, leave)


def stay() -> None:
    """Leave the warning ahead of time to the process that started this worker, and end when that ends, however it does."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(TemporaryError.exit_code)  # nothing that a worker holds outlives its parent


def prepare_workers() -> None:
    """Start multiprocessing's resource tracker, which knows SIGTERM but not SIGUSR1, such that it ignores that too."""
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        resource_tracker.ensure_running()
        signal.signal(signal.SIGUSR1, before)
