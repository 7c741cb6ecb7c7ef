"""Train on the machines of a host file: the same command on each through ssh, which starts that machine's ranks.

The machines must share the folders that the recipe names, and have biomlm's environment at the same path. A machine's output goes to a log
of its own beside the stage's; the first one's is shown too.
"""

import math
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from biomlm.core.errors import ConfigError, TemporaryError
from biomlm.core.files import append_text
from biomlm.core.processes.children import exit_code, signals_passed_on
from biomlm.core.verbs import VERBS
from biomlm.launch.backends import local
from biomlm.launch.backends.base import Backend, OneByOne
from biomlm.launch.backends.ranks import KILL, LEAVE, Machine
from biomlm.launch.recipe import Recipe, Stage

PORT = 29_500
LOST = 255  # ssh's exit code for a connection that could not be made, or broke
LINE = re.compile(r"(\S+)(?:\s+slots=(\d+))?\s*(?:#.*)?")
POLL = 0.5  # seconds between two looks at whether a machine has ended
SSH = (
    "ssh",
    "-o",
    "BatchMode=yes",
    "-T",
)  # no terminal, so no redrawn bars in logs; standard input carries signals, and its end one


@dataclass(frozen=True)
class HostsOptions:
    """Which machines train.

    Args:
        hostfile: For `hosts`: lines such as `gpu01 slots=8`, as DeepSpeed's; ssh must reach each without a password.
    """

    hostfile: str = ""


@dataclass(frozen=True)
class Host:
    """A machine and how many processes it runs."""

    name: str
    slots: int


def read(path: Path) -> list[Host]:
    """Read a host file as DeepSpeed's: `name slots=N` a line; empty lines and what follows a # are left out.

    Raises:
        ConfigError: It is missing, empty, or a line says something else, or one host stands twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read it ({error.strerror})", file=path, remedy="Give a host file.") from None
    hosts: dict[str, Host] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = LINE.fullmatch(line.strip())
        if match is None or match[1] in hosts or match[1].startswith("-"):
            raise ConfigError(
                "this is no host, or stands twice", file=path, record=f"line {number}", remedy="Write `name slots=8`."
            )
        hosts[match[1]] = Host(match[1], int(match[2] or 1))
    if not hosts:
        raise ConfigError("it names no host", file=path, remedy="Write `name slots=8` a line.")
    return list(hosts.values())


def commands(words: Sequence[str], hosts: Sequence[Host], deadline: float = 0.0) -> list[list[str]]:
    """Build the ssh command of every machine."""
    ssh_commands, first = [], 0
    for host in hosts:
        machine = Machine(
            host.slots,
            first=first,
            size=sum(other.slots for other in hosts),
            master=f"{hosts[0].name}:{PORT}",
            deadline=deadline,
            listens=True,
        )
        first += host.slots
        remote = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(machine.command(words))}"
        ssh_commands.append([*SSH, host.name, remote])
    return ssh_commands


def run_stage(words: Sequence[str], log: Path, hosts: Sequence[Host], deadline: float = 0.0) -> int:
    """Run one training stage on all machines; when one fails, the others are asked to end, and its exit code is returned.

    Args:
        words: The command line behind `biomlm`.
        log: The stage's log; a machine's is beside it, `NAME-HOST.log`.
        hosts: The machines.
        deadline: Seconds that ranks have to end after a signal; 0 for as long as it takes.
    """
    with ExitStack() as open_files:
        running: list[subprocess.Popen[str]] = []
        readers = []
        with signals_passed_on(lambda number: _pass_on(running, number)):
            for rank, (host, command) in enumerate(zip(hosts, commands(words, hosts, deadline), strict=True)):
                file = open_files.enter_context(append_text(log.with_name(f"{log.stem}-{host.name}.log")))
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,  # a terminal's Ctrl-C would end ssh, and leave what it has started
                )
                running.append(child)
                readers.append(threading.Thread(target=_follow, args=(child, file, rank == 0)))
                readers[-1].start()
            code = _wait(running)
            for child, reader in zip(running, readers, strict=True):
                reader.join()
                with suppress(BrokenPipeError), child:  # closes what signals were written to
                    pass
    return code


def _pass_on(running: "Sequence[subprocess.Popen[str]]", number: int) -> None:
    """Send a signal to the ranks of all machines."""
    for child in running:
        assert child.stdin is not None
        with suppress(BrokenPipeError):
            child.stdin.write(f"{signal.Signals(number).name}\n")
            child.stdin.flush()


def _follow(child: "subprocess.Popen[str]", file: IO[str], shown: bool) -> None:
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            file.write(line)
            file.flush()
            if shown:
                sys.stderr.write(line)


def _wait(running: "Sequence[subprocess.Popen[str]]") -> int:
    """Wait until all have ended, and ask them to when one has failed; that one's exit code."""
    failed, kill_at = 0, math.inf
    while None in (codes := [child.poll() for child in running]):
        if not failed and (failed := next((code for code in codes if code), 0)):
            _pass_on(running, signal.SIGTERM)
            kill_at = time.monotonic() + KILL + LEAVE
        if time.monotonic() > kill_at:  # machines that cannot be reached
            for child in running:
                child.kill()
        time.sleep(POLL)
    failed = failed or next((code for code in codes if code), 0)
    return TemporaryError.exit_code if failed in (LOST, -signal.SIGKILL) else exit_code(failed)


def _check(_recipe: Recipe, options: HostsOptions) -> None:
    if not options.hostfile:
        raise ConfigError("--on hosts needs a host file", remedy="Name it with --hostfile.")
    read(Path(options.hostfile))


def _run(stage: Stage, words: Sequence[str], log: Path, options: Any) -> int:
    if VERBS[stage.verb].gpus != "all":
        return local.run_stage(words, log, deadline=options.stop_timeout)
    hosts = read(Path(options.hostfile))
    hosts = [replace(host, slots=1) for host in hosts] if stage.starts_processes else hosts
    return run_stage(words, log, hosts, options.stop_timeout)


BACKEND = Backend("hosts", HostsOptions, OneByOne(_run), _check)
