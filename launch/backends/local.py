"""Run stages as commands on this machine, one after the other, with their output on the terminal and in a log."""

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from biomlm.core.fields import require_positive
from biomlm.core.files import append_text
from biomlm.core.processes.children import biomlm_command, dying_with_parent, exit_code, signals_passed_on
from biomlm.core.processes.signals import let_signals_through, signals_blocked
from biomlm.core.verbs import VERBS
from biomlm.launch.backends.base import Backend, OneByOne
from biomlm.launch.backends.ranks import Machine
from biomlm.launch.recipe import Recipe, Stage


@dataclass(frozen=True)
class LocalOptions:
    """How stages run on this machine.

    Args:
        processes: Processes of a training stage on this machine, with a GPU each.
    """

    processes: int = 1


@dataclass
class Deadline:
    """Kills a child that has not ended so many seconds after the first signal; with 0 it may take as long as it needs."""

    child: "subprocess.Popen[bytes]"
    seconds: float
    timer: threading.Timer | None = None

    def send(self, number: int) -> None:
        """Pass a signal on."""
        self.child.send_signal(number)
        if self.seconds and self.timer is None:
            self.timer = threading.Timer(self.seconds, self.child.kill)
            self.timer.start()

    def cancel(self) -> None:
        """Let the time pass: the child has ended."""
        if self.timer is not None:
            self.timer.cancel()


def shown(words: Sequence[str]) -> str:
    """Format a stage's command as it can be typed."""
    return shlex.join(["biomlm", *words])


def run_stage(words: Sequence[str], log: Path, command: Sequence[str] = (), deadline: float = 0.0) -> int:
    """Run one command and return its exit code; 128 + the signal's number for one that was killed.

    On a terminal the command writes its progress there itself, so that its bars stay live, and the log keeps its results. Elsewhere
    all of its output passes through here, to standard error and to the log. Signals that stop a launch are passed on, and the command
    is waited for; then they stop the launch.

    Args:
        words: The command line behind `biomlm`.
        log: File to append to.
        command: What to start instead, if it is not this Python alone.
        deadline: Seconds that it has to end after a signal; 0 for as long as it takes.
    """
    live = sys.stderr.isatty()
    with append_text(log) as log_file, signals_blocked():
        log_file.write(f"$ {shown(words)}\n")
        log_file.flush()
        with subprocess.Popen(
            command or biomlm_command(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if live else subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            preexec_fn=dying_with_parent(),  # noqa: PLW1509 it calls prctl and nothing else
        ) as child:
            return _follow(child, log_file, Deadline(child, deadline))


def _follow(child: "subprocess.Popen[bytes]", log: IO[str], deadline: Deadline) -> int:
    """Write a child's output here and into a log until it has ended, and pass signals on to it."""
    assert child.stdout is not None
    with signals_passed_on(deadline.send):
        let_signals_through()
        try:
            for raw in child.stdout:
                line = raw.decode("utf-8", "replace")
                sys.stderr.write(line)
                sys.stderr.flush()
                log.write(line)
                log.flush()
            code = exit_code(child.wait())
            log.write(f"exit code {code}\n")
            return code
        except BaseException:
            child.terminate()
            raise
        finally:
            deadline.cancel()


def _check(_recipe: Recipe, options: LocalOptions) -> None:
    require_positive(options, "processes")


def _run(stage: Stage, words: Sequence[str], log: Path, options: Any) -> int:
    several = VERBS[stage.verb].gpus == "all" and options.processes > 1 and not stage.starts_processes
    command = Machine(options.processes, deadline=options.stop_timeout).command(words) if several else ()
    return run_stage(words, log, command, 0.0 if several else options.stop_timeout)


BACKEND = Backend("local", LocalOptions, OneByOne(_run), _check)
