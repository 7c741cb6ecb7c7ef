"""SIGTERM and SIGUSR1 as a wish to stop: the step is finished and a checkpoint written; the exit code is 75."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from biomlm.core.cli import SIGNALS


class StopWish:
    """Whether one of the signals has come; outside the main thread none is caught."""

    def __init__(self) -> None:
        self.name = ""
        self.before: dict[signal.Signals, Any] = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        self.name = signal.Signals(number).name

    def __enter__(self) -> "StopWish":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
