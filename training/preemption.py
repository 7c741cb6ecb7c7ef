"""Note SIGTERM, SIGUSR1 and Ctrl-C as requests to stop, of one process as of many.

`Trainer._after_step` finishes the step, saves and raises `core.errors.StoppedError`, whose exit code is 75, or 130 after Ctrl-C. A
second Ctrl-C waits for nothing.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from biomlm.core.errors import KeyboardStopError, StoppedError
from biomlm.core.processes.signals import Echoes, heard_signals


class PreemptionHandler:
    """Whether one of the signals has come; outside the main thread none is caught."""

    def __init__(self) -> None:
        self.signal_name = ""
        self.echoes = Echoes()
        self.before: dict[signal.Signals, Any] = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.echoes.is_new(number) and self.signal_name == signal.SIGINT.name:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name

    def error(self, done: str) -> StoppedError:
        """Return the error to end with.

        Args:
            done: What is saved, as the end of a sentence.
        """
        kind = KeyboardStopError if self.signal_name == signal.SIGINT.name else StoppedError
        by = self.signal_name or "a signal to another rank"
        return kind(f"stopped by {by} {done}", remedy="The same command goes on from there.")

    def __enter__(self) -> "PreemptionHandler":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in heard_signals()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
