"""Run stages as commands on this machine, one after the other, with their output on the terminal and in a log."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from biomlm.core.fields import require_positive
from biomlm.core.verbs import VERBS
from biomlm.launch.backends.base import Backend, OneByOne
from biomlm.launch.recipe import Recipe, Stage

START = "from biomlm.core.cli import main; main()"  # `biomlm` of this very Python, be its script on the PATH or not
PATIENCE = 20  # seconds that a stage has to end after it was asked to


@dataclass(frozen=True)
class LocalOptions:
    """How stages run on this machine.

    Args:
        processes: Processes of a training stage on this machine, with a GPU each.
    """

    processes: int = 1


def shown(words: Sequence[str]) -> str:
    """Format a stage's command as it can be typed."""
    return shlex.join(["biomlm", *words])


def run_stage(words: Sequence[str], log: Path, command: Sequence[str] = ()) -> int:
    """Run one command and return its exit code; 128 + the signal's number for one that was killed.

    On a terminal the command writes its progress there itself, so that its bars stay live, and the log keeps its results. Elsewhere
    all of its output passes through here, to standard error and to the log.

    Args:
        words: The command line behind `biomlm`.
        log: File to append to.
        command: What to start instead, if it is not this Python alone.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    live = sys.stderr.isatty()
    with (
        log.open("a", encoding="utf-8") as log_file,
        subprocess.Popen(
            command or [sys.executable, "-c", START, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if live else subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        ) as child,
    ):
        log_file.write(f"$ {shown(words)}\n")
        assert child.stdout is not None
        try:
            for raw in child.stdout:
                line = raw.decode("utf-8", "replace")
                sys.stderr.write(line)
                sys.stderr.flush()
                log_file.write(line)
                log_file.flush()
            code = child.wait()
        except BaseException as error:
            _stop(child, asked=isinstance(error, KeyboardInterrupt))
            raise
        code = code if code >= 0 else 128 - code
        log_file.write(f"exit code {code}\n")
    return code


def torchrun(words: Sequence[str], slots: int, node: Sequence[str] = ("--standalone",)) -> list[str]:
    """Build the command that starts a verb's processes on one machine.

    Args:
        words: The command line behind `biomlm`.
        slots: Processes.
        node: torchrun's options about the other machines.
    """
    start = [sys.executable, "-m", "torch.distributed.run", *node, "--nproc-per-node", str(slots)]
    return [*start, "-m", "biomlm.core", *words]


def _stop(child: subprocess.Popen[bytes], *, asked: bool) -> None:
    """End a stage. One that Ctrl-C in a terminal has already reached is given time before it is terminated."""
    steps = [child.terminate, child.kill]
    try:
        for step in [child.poll, *steps] if asked else steps:
            step()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE)
                return
    finally:
        child.kill()


def stop_on_sigterm() -> None:
    """Make SIGTERM (a batch system, a container that is stopped) end the running stage too, with exit code 143."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def _check(_recipe: Recipe, options: LocalOptions) -> None:
    require_positive(options, "processes")


def _run(stage: Stage, words: Sequence[str], log: Path, options: LocalOptions) -> int:
    several = VERBS[stage.verb].gpus == "all" and options.processes > 1
    return run_stage(words, log, torchrun(words, options.processes) if several else ())


BACKEND = Backend("local", LocalOptions, OneByOne(_run), _check)
