"""Scratch folders: none is left by a signal, one that a killed process left goes with the next, one in use stays."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from biomlm.convert.safe_load import archive
from biomlm.core.files import atomic_dir, sweep_abandoned

WAIT = """
import sys, time
from biomlm.convert.safe_load import archive
from biomlm.core.processes.signals import stop_on_signals
stop_on_signals()
(archive.scratch() / "model.bin").write_bytes(b"x" * 1000)
print("ready", flush=True)
time.sleep(60)
"""


def started(folder: Path) -> subprocess.Popen[str]:
    """A process that works in a scratch folder."""
    env = {**os.environ, "TMPDIR": str(folder)}
    child = subprocess.Popen(
        [sys.executable, "-c", WAIT], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    child.stdout.close()
    return child


def aged(folder: Path) -> None:
    """Make what lies there an hour old."""
    for path in folder.iterdir():
        os.utime(path, (time.time() - 3600,) * 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_none(number: signal.Signals, tmp_path: Path) -> None:
    child = started(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    child.send_signal(number)
    child.wait(20)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    killed, living = started(tmp_path), started(tmp_path)
    killed.kill()
    killed.wait(20)
    (tmp_path / "biomlm-scratch-fresh").mkdir()
    (tmp_path / "other-old").mkdir()
    (tmp_path / "biomlm-scratch-link").symlink_to(tmp_path / "other-old")
    aged(tmp_path)
    os.utime(tmp_path / "biomlm-scratch-fresh")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(archive, "_scratch", [])
    mine = archive.scratch()
    request.addfinalizer(archive._scratch[0].cleanup)
    aged(tmp_path)
    os.utime(tmp_path / "biomlm-scratch-fresh")
    left = {path.name for path in tmp_path.iterdir()}
    assert {mine.name, "biomlm-scratch-fresh", "biomlm-scratch-link", "other-old"} < left
    assert len(left) == 5, "the living one's"
    living.kill()
    living.wait(20)
    sweep_abandoned(tmp_path, r"biomlm-scratch-\w+")
    assert {path.name for path in tmp_path.iterdir()} == {
        mine.name,
        "biomlm-scratch-fresh",
        "biomlm-scratch-link",
        "other-old",
    }


def test_a_target_half_written_by_a_killed_process_goes_too(tmp_path: Path) -> None:
    for name in (".out.123.tmp", ".out.d.123.tmp", ".other.123.tmp"):
        (tmp_path / name).mkdir()
    aged(tmp_path)
    with atomic_dir(tmp_path / "out") as folder:
        aged(tmp_path)
        with atomic_dir(tmp_path / "out" / "in" / "it"):
            sweep_abandoned(tmp_path, r"\.out\.\d+\.tmp")
        assert folder.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.d.123.tmp", ".other.123.tmp"}
