"""Train on the machines of a host file: the same command on each through ssh, as torchrun's nodes.

The machines must share the folders that the recipe names, and have biomlm's environment at the same path. A machine's output goes to a log
of its own beside the stage's; the first one's is shown too.
"""

import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from biomlm.core.errors import ConfigError
from biomlm.core.verbs import VERBS
from biomlm.launch.backends import local
from biomlm.launch.backends.base import Backend, OneByOne
from biomlm.launch.backends.local import torchrun
from biomlm.launch.recipe import Recipe, Stage

PORT = 29_500
LINE = re.compile(r"(\S+)(?:\s+slots=(\d+))?\s*(?:#.*)?")
POLL = 0.5  # seconds between two looks at whether a machine has ended
SSH = ("ssh", "-o", "BatchMode=yes", "-tt")  # -tt: what runs there ends when the connection does


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


def commands(words: Sequence[str], hosts: Sequence[Host]) -> list[list[str]]:
    """Build the ssh command of every machine."""
    ssh_commands = []
    for rank, host in enumerate(hosts):
        node = ["--nnodes", str(len(hosts)), "--node-rank", str(rank)]
        node += ["--master-addr", hosts[0].name, "--master-port", str(PORT)]
        remote = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(torchrun(words, host.slots, node))}"
        ssh_commands.append([*SSH, host.name, remote])
    return ssh_commands


def run_stage(words: Sequence[str], log: Path, hosts: Sequence[Host]) -> int:
    """Run one training stage on all machines; when one fails, the others are ended, and its exit code is returned.

    Args:
        words: The command line behind `biomlm`.
        log: The stage's log; a machine's is beside it, `NAME-HOST.log`.
        hosts: The machines.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as open_files:
        running: list[subprocess.Popen[str]] = []
        readers = []
        try:
            for rank, (host, command) in enumerate(zip(hosts, commands(words, hosts), strict=True)):
                file = open_files.enter_context(
                    log.with_name(f"{log.stem}-{host.name}.log").open("a", encoding="utf-8")
                )
                child = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
                running.append(child)
                readers.append(threading.Thread(target=_follow, args=(child, file, rank == 0)))
                readers[-1].start()
            return _wait(running)
        finally:
            for child in running:
                child.terminate()
            for child, reader in zip(running, readers, strict=True):
                reader.join()
                child.wait()


def _follow(child: "subprocess.Popen[str]", file: IO[str], shown: bool) -> None:
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            file.write(line)
            file.flush()
            if shown:
                sys.stderr.write(line)


def _wait(running: "Sequence[subprocess.Popen[str]]") -> int:
    """Wait until all have succeeded or one has failed; its exit code."""
    while True:
        codes = [child.poll() for child in running]
        failed = next((code for code in codes if code), None)
        if failed is not None:
            return failed if failed > 0 else 128 - failed
        if None not in codes:
            return 0
        time.sleep(POLL)


def _check(_recipe: Recipe, options: HostsOptions) -> None:
    if not options.hostfile:
        raise ConfigError("--on hosts needs a host file", remedy="Name it with --hostfile.")
    read(Path(options.hostfile))


def _run(stage: Stage, words: Sequence[str], log: Path, options: HostsOptions) -> int:
    if VERBS[stage.verb].gpus != "all":
        return local.run_stage(words, log)
    return run_stage(words, log, read(Path(options.hostfile)))


BACKEND = Backend("hosts", HostsOptions, OneByOne(_run), _check)
