"""What a batch system says to a job: SIGTERM when it is preempted or its time is up, and any signal ahead of that on request
(SLURM's `--signal=USR1@120`). Both are a wish to stop, which every process of a job hears.
"""

import os
import signal
from types import FrameType

from biomlm.core.errors import TemporaryError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def stop_on_signals() -> None:
    """Make them end a command as Ctrl-C does, with exit code 75 (training catches them itself, and saves)."""
    own = os.getpid()

    def leave(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != own:  # a fork of this process, whose end is nobody's wish to stop
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        said = f"\nbiolm: stopped by {signal.Signals(number).name}. The same command goes on where it was.\n"
        os.write(2, said.encode())  # print is not to be entered twice
        raise SystemExit(TemporaryError.exit_code)  # no `except Exception` takes it for a fault of what was being done

    for number in SIGNALS:
        signal.signal(number, leave)


def stay() -> None:
    """Leave the warning ahead of time to the process that started this worker."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
