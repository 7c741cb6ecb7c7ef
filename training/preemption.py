"""Note SIGTERM and SIGUSR1 as requests to stop, of one process as of many.

`Trainer._after_step` finishes the step, saves and raises `core.errors.StoppedError`, whose exit code is 75.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from biomlm.core.cli import SIGNALS


class PreemptionHandler:
    """Whether one of the signals has come; outside the main thread none is caught."""

    def __init__(self) -> None:
        self.signal_name = ""
        self.before: dict[signal.Signals, Any] = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name

    def __enter__(self) -> "PreemptionHandler":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
