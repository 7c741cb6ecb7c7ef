"""`python -m biomlm.launch.backends.ranks`: start the ranks of a training stage on one machine, and end when they have.

It opens no port. Ranks of one machine meet in a file of a folder that only this user may enter; those of several at the address that is
given, which rank 0 alone listens on (`training.distributed.process_group`). Signals are passed on to every rank, and so are those that
come as lines on standard input (`SIGTERM`), for a launcher that speaks through ssh and has no other way; its end means SIGTERM. The
first rank that fails is named, and the others are asked to end, after a minute made to.
"""

import argparse
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import FrameType

from biomlm.core.errors import TemporaryError
from biomlm.core.processes.children import biomlm_command, dying_with_parent, python
from biomlm.core.processes.signals import STOPS, let_signals_through, signals_blocked

FILE = "BIOMLM_RENDEZVOUS"  # names the file through which ranks meet
STOPPED = TemporaryError.exit_code
LOOK = 0.1  # seconds between looks at whether a rank has ended
LEAVE = 15.0  # seconds that the other ranks have to notice by themselves that one is gone, before they are asked to end
KILL = 60.0  # seconds after which they are killed


@dataclass(frozen=True)
class Machine:
    """The part of a stage's ranks that runs on one machine.

    Args:
        processes: Ranks here.
        first: The first one's number.
        size: Ranks in all.
        master: Host and port where those of several machines meet; empty for a machine that is alone.
        deadline: Seconds that ranks have to end after a signal; 0 for as long as it takes.
        listens: Whether signals come on standard input too.
    """

    processes: int
    first: int = 0
    size: int = 0
    master: str = ""
    deadline: float = 0.0
    listens: bool = False

    def command(self, words: Sequence[str]) -> list[str]:
        """Build the command that starts a verb's ranks.

        Args:
            words: The command line behind `biomlm`.
        """
        options = ["--processes", str(self.processes), "--first", str(self.first)]
        options += ["--size", str(self.size or self.processes), "--master", self.master]
        options += ["--deadline", str(self.deadline), *(["--listens"] if self.listens else [])]
        return python("-m", "biomlm.launch.backends.ranks", *options, "--", *words)


@dataclass
class Ranks:
    """The running ranks of one machine."""

    machine: Machine
    children: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    lost: bool = False  # whether a rank has failed
    ask_at: float | None = None  # when the others are asked to end
    kill_at: float | None = None

    def start(self, words: Sequence[str], folder: str) -> None:
        """Start all of them."""
        ask = dying_with_parent()
        for local in range(self.machine.processes):
            where = {"RANK": self.machine.first + local, "WORLD_SIZE": self.machine.size, "LOCAL_RANK": local}
            host, _, port = self.machine.master.rpartition(":")
            meet = {"MASTER_ADDR": host, "MASTER_PORT": port} if host else {FILE: os.path.join(folder, "ranks")}  # noqa: PTH118
            env = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
            env |= {name: str(value) for name, value in {**where, **meet}.items()}
            child = subprocess.Popen(
                biomlm_command(*words),
                stdin=subprocess.DEVNULL,
                env=env,
                preexec_fn=ask,  # noqa: PLW1509 it calls prctl and nothing else
            )
            self.children.append(child)

    def pass_on(self, number: int) -> None:
        """Send a signal to all that still run, and start the deadline."""
        for child in self.children:
            if child.poll() is None:
                child.send_signal(number)
        if self.machine.deadline and self.kill_at is None:
            self.kill_at = time.monotonic() + self.machine.deadline

    def wait(self) -> int:
        """Wait for all ranks; the exit code of one that failed, or 75 if ranks were lost or asked to stop."""
        while any(child.poll() is None for child in self.children):
            self._look()
            self._read_signals()
        self._look()
        codes = [child.returncode for child in self.children if child.returncode]
        return next((code for code in codes if code > 0 and code != STOPPED), STOPPED if codes else 0)

    def _look(self) -> None:
        """Name the first rank that failed; ask and then make the others end."""
        now = time.monotonic()
        failed = next((rank for rank, child in enumerate(self.children, self.machine.first) if child.poll()), None)
        if failed is not None and not self.lost:
            self.lost = True
            self._say(failed, self.children[failed - self.machine.first].returncode)
            self.ask_at, self.kill_at = now + LEAVE, min(self.kill_at or now + KILL, now + KILL)
        if self.ask_at is not None and now > self.ask_at:
            self.ask_at = None
            self.pass_on(signal.SIGTERM)
        if self.kill_at is not None and now > self.kill_at:
            self.kill_at = now + KILL
            self.pass_on(signal.SIGKILL)

    def _say(self, rank: int, code: int) -> None:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"has ended with exit code {code}"
        print(f"biomlm: rank {rank} of {self.machine.size} {how}", file=sys.stderr)

    def _read_signals(self) -> None:
        if not self.machine.listens:
            time.sleep(LOOK)
        elif select.select([sys.stdin], [], [], LOOK)[0]:
            words = os.read(sys.stdin.fileno(), 4096).decode().split()
            if not words:  # whoever started this is gone
                self.machine = replace(self.machine, listens=False)
            for word in words or [signal.SIGTERM.name]:
                self.pass_on(signal.Signals[word])


def main() -> None:
    """Start, wait, and exit."""
    parser = argparse.ArgumentParser()
    for name in ("processes", "first", "size"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--master")
    parser.add_argument("--deadline", type=float)
    parser.add_argument("--listens", action="store_true")
    parser.add_argument("words", nargs="+")
    options = vars(parser.parse_args())
    words = options.pop("words")
    ranks = Ranks(Machine(**options))

    def pass_on(number: int, _frame: FrameType | None) -> None:
        ranks.pass_on(number)

    with tempfile.TemporaryDirectory(prefix="biomlm-") as folder:
        with signals_blocked():
            for stop in STOPS:
                signal.signal(stop, pass_on)
            ranks.start(words, folder)
        let_signals_through()
        code = ranks.wait()
    sys.exit(code)


if __name__ == "__main__":
    main()
