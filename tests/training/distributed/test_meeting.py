"""Where ranks meet: no other address of the machine reaches them, and one that does not come is named; with real processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from biomlm.core.errors import ConfigError, TemporaryError
from biomlm.core.files import read_json
from biomlm.launch.backends.ranks import Machine
from biomlm.training.distributed.meeting import meet, private_folder
from biomlm.training.distributed.process_group import RankInfo, rank_info

Words = Callable[..., list[str]]
LOOPBACK, OUTSIDE = "127.0.0.1", "127.0.0.2"  # to Linux 127.0.0.2 is this machine too, by another address
LISTENING = "0A"


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """Addresses and ports at which processes listen, as the kernel tells them."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(link.readlink().name.removeprefix("socket:[").rstrip("]"))
            except OSError:
                continue
    places = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTENING and rest[5] in inodes:
                address, port = local.split(":")
                words = [address[i : i + 8] for i in range(0, len(address), 8)]
                raw = b"".join(bytes.fromhex(word)[::-1] for word in words)
                places.add(
                    (socket.inet_ntop(socket.AF_INET if table == "tcp" else socket.AF_INET6, raw), int(port, 16))
                )
    return places


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and whose end nobody has asked about does not."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def children(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@pytest.fixture
def training(
    tiny_shards: Path, small_run: Words, tmp_path: Path
) -> tuple[Callable[..., "subprocess.Popen[str]"], Path]:
    """start(machine): ranks of a run that takes long, in a folder that is given back too."""
    run = tmp_path / "run"
    words = small_run(tiny_shards, run, 100_000, "--batch.accumulation", "2", "--log_every", "1")

    def start(machine: Machine) -> "subprocess.Popen[str]":
        return subprocess.Popen(machine.command(words), stderr=subprocess.PIPE, text=True, cwd=tmp_path)

    return start, run


def wait_until_it_trains(process: "subprocess.Popen[str]", run: Path) -> None:
    deadline = time.monotonic() + 120
    file = run / "metrics.jsonl"
    while not (file.exists() and file.stat().st_size) and process.poll() is None:
        assert time.monotonic() < deadline, "it does not begin"
        time.sleep(0.05)


def test_ranks_of_one_machine_are_reached_from_no_other_address_and_leave_together(
    training: tuple[Callable[..., "subprocess.Popen[str]"], Path],
) -> None:
    """A module in the current folder is not run either."""
    start, run = training
    (run.parent / "orjson.py").write_text("raise SystemExit('the current folder ran')")
    process = start(Machine(2))
    wait_until_it_trains(process, run)
    ranks = children(process.pid)
    places = listening({process.pid, *ranks})
    assert len(ranks) == 2
    assert {address for address, _ in places} == {LOOPBACK}
    for _, port in places:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((OUTSIDE, port), timeout=5)
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 75, text
    assert "which is saved" in text
    assert read_json(run / "manifest.json")["status"] == "stopped"


def test_a_launcher_that_is_killed_leaves_no_rank(
    training: tuple[Callable[..., "subprocess.Popen[str]"], Path],
) -> None:
    start, run = training
    process = start(Machine(2))
    wait_until_it_trains(process, run)
    ranks = children(process.pid)
    process.kill()
    process.communicate(timeout=60)  # ends when every rank has closed its end
    assert not {rank for rank in ranks if is_alive(rank)}
    assert read_json(run / "manifest.json")["status"] == "stopped"


def test_a_rank_lost_before_the_first_step_ends_the_others_and_is_named(
    training: tuple[Callable[..., "subprocess.Popen[str]"], Path],
) -> None:
    start, _ = training
    process = start(Machine(2))
    deadline = time.monotonic() + 30
    while len(children(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(max(children(process.pid)), signal.SIGKILL)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 75, text
    assert "rank 1 of 2 was ended by SIGKILL" in text
    assert "fault of biomlm" not in text


MEET = """
import sys
from biomlm.training.distributed.meeting import meet
rank, host, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = meet(rank, 2, (host, port), file="", patience=60)
print("met", flush=True)
input()
"""


def test_the_port_of_several_machines_is_open_at_the_named_address_alone() -> None:
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", MEET, str(rank), LOOPBACK, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        assert process.stdout is not None
        assert process.stdout.readline() == "met\n"
    assert listening({process.pid for process in ranks}) == {(LOOPBACK, port)}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((OUTSIDE, port), timeout=5)
    for process in reversed(ranks):
        process.communicate("\n", timeout=30)


def test_a_rank_that_does_not_come_is_named(tmp_path: Path) -> None:
    with pytest.raises(TemporaryError, match="rank 1 of 2 has not come"):
        meet(0, 2, ("", 0), file=str(tmp_path / "ranks"), patience=0.2)


def test_an_address_that_rank_0_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"rank 0 cannot listen at 192\.0\.2\.1:20000"):
        meet(0, 2, ("192.0.2.1", 20_000), file="", patience=1)
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    with pytest.raises(ConfigError, match="which other machines do not reach"):
        meet(0, 2, (LOOPBACK, 0), file="", patience=1)


def test_the_private_folder_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = private_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder() == folder
    folder.chmod(0o770)
    with pytest.raises(ConfigError, match="others may write here"):
        private_folder()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not a folder of this user's"):
        private_folder()


def test_ranks_that_a_launcher_of_ours_starts_say_where_they_meet() -> None:
    env = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "BIOMLM_RENDEZVOUS": "/folder/ranks"}
    assert rank_info(env) == RankInfo(1, 2, 1, ("127.0.0.1", 29_500), "/folder/ranks")
