"""One command at a time in a folder, and a lock that nobody holds any more is in nobody's way; with real processes."""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from biomlm.core.errors import MismatchError
from biomlm.core.processes import lock

HOLDER = """
import os, sys
from biomlm.core.processes import lock
lock.hold(sys.argv[1])
child = os.fork()
print(child, flush=True) if child else None
input()
"""


@contextmanager
def holder(folder: Path, **env: str) -> Iterator[tuple[int, int]]:
    """A process that holds a folder, and its child: their numbers."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **env},
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            yield process.pid, child
        finally:
            process.kill()
            os.kill(child, signal.SIGKILL)


@pytest.fixture(autouse=True)
def _let_go() -> Iterator[None]:
    yield
    lock.release()


def test_a_second_process_is_told_who_is_there(tmp_path: Path) -> None:
    with holder(tmp_path) as (pid, _), pytest.raises(MismatchError) as refused:
        lock.hold(tmp_path)
    lines = str(refused.value).splitlines()
    assert lines[0] == f"{tmp_path}: process {pid} on {socket.gethostname()} is at work in this folder."
    assert lines[1:] == ["Wait for it or end it, or give another --out."]


def test_a_killed_holder_is_in_nobodys_way_although_its_child_lives(tmp_path: Path) -> None:
    with holder(tmp_path) as (pid, _):
        os.kill(pid, signal.SIGKILL)
        lock.hold(tmp_path, wait=True)
        assert orjson.loads((tmp_path / lock.NAME).read_bytes())["pid"] == os.getpid()
    lock.hold(tmp_path)  # again, by the same process
    lock.release(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_requeued_job_takes_over_from_its_earlier_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with holder(tmp_path, SLURM_JOB_ID="7"):
        for job, lives in (("8", "1"), ("7", "0"), ("", "1")):
            monkeypatch.setenv("SLURM_JOB_ID", job)
            monkeypatch.setenv("SLURM_RESTART_COUNT", lives)
            with pytest.raises(MismatchError):
                lock.hold(tmp_path)
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        lock.hold(tmp_path)
        assert orjson.loads((tmp_path / lock.NAME).read_bytes())["pid"] == os.getpid()


def test_another_machine_that_is_down_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with holder(tmp_path), monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "another")
        with pytest.raises(MismatchError, match=r"If that machine is down, remove \.lock there"):
            lock.hold(tmp_path)


def test_without_locks_it_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(_file: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", none)
    lock.hold(tmp_path)
    assert "no locks here (No locks available)" in capsys.readouterr().err
