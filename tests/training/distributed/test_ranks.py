"""Ranks that die, freeze, hang or lag behind are named, and under torchrun's agent a lost one costs nothing; with real processes."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomlm.core import checkpoint

DEALT = ["--batch.accumulation", "2"]  # a micro-batch for each of two ranks
Words = Callable[..., list[str]]
Records = Callable[[Path, str], dict[int, Any]]
Start = Callable[..., Any]


def test_a_rank_without_work_is_refused_and_uneven_work_is_said(
    tiny_shards: Path, small_run: Words, start_ranks: Start, tmp_path: Path
) -> None:
    ranks = start_ranks(2, small_run(tiny_shards, tmp_path / "run", 2))
    assert ranks.wait() == [2, 2], ranks.said()
    assert "batch.accumulation is 1 and there are 2 processes: 1 would have nothing to compute" in ranks.said()
    assert not (tmp_path / "run").exists()
    ranks = start_ranks(2, small_run(tiny_shards, tmp_path / "run", 2, "--batch.accumulation", "3"))
    assert ranks.wait() == [0, 0], ranks.said()
    assert ranks.said().count("do not come out even on 2 processes: 25% of their time") == 1


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGKILL, "has ended"), (signal.SIGSTOP, "has ended or is frozen")]
)
def test_a_lost_rank_is_named(
    number: signal.Signals, said: str, tiny_shards: Path, small_run: Words, start_ranks: Start, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    argv = small_run(tiny_shards, run, 10_000, "--log_every", "1", "--save_every", "5", "--timeout", "10", *DEALT)
    ranks = start_ranks(2, argv, patch="patch_late.py")
    deadline = time.monotonic() + 120
    while not checkpoint.steps(run) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(ranks.processes[1].pid, number)
    ranks.processes[0].join(60)
    ranks.processes[1].kill()
    assert ranks.processes[0].exitcode == 75, ranks.said()
    assert f"rank 1 of 2 {said}" in ranks.said()
    assert "goes on from the last checkpoint" in ranks.said()


@pytest.mark.parametrize("engine", ["torch", "fsdp"])
def test_a_rank_that_hangs_in_its_code_is_named_with_the_line(
    engine: str, tiny_shards: Path, small_run: Words, start_ranks: Start, tmp_path: Path
) -> None:
    argv = small_run(tiny_shards, tmp_path / "run", 10, "--engine", engine, "--timeout", "10", *DEALT)
    late = {"LATE_RANK": "1", "LATE_FROM": "4", "LATE_SECONDS": "1000"}
    ranks = start_ranks(2, argv, patch="patch_late.py", **late)
    assert ranks.wait() == [75, 75], ranks.said()
    assert set(re.findall(r"rank (\d) of 2", ranks.said())) == {"1"}, ranks.said()
    assert re.search(r"rank 1 of 2 hangs at step 4 of this process, in biomlm\.training\.\S+:\d+", ranks.said())


def test_a_slow_rank_is_named(
    tiny_shards: Path, small_run: Words, start_ranks: Start, records: Records, tmp_path: Path
) -> None:
    argv = small_run(tiny_shards, tmp_path / "run", 6, "--log_every", "1", *DEALT)
    ranks = start_ranks(2, argv, patch="patch_late.py", LATE_RANK="1", LATE_SECONDS="0.5")
    assert ranks.wait() == [0, 0], ranks.said()
    assert re.search(r"rank 1 takes \d+\.\d times as long as the others", ranks.said())
    assert set(records(tmp_path / "run", "slowest_rank").values()) == {1}
    assert min(records(tmp_path / "run", "slowest_ratio").values()) > 1.5


@pytest.mark.slow
def test_torchruns_agent_starts_again_and_the_weights_are_the_same(
    tiny_shards: Path, small_run: Words, start_ranks: Start, tmp_path: Path
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    every = ["--log_every", "1", "--save_every", "2", "--batch.accumulation", "3"]
    ranks = start_ranks(2, small_run(tiny_shards, whole, 8, *every))
    agent = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "1",
    ]
    command = [*agent, "--monitor-interval", "0.2", str(Path(__file__).parents[2] / "ranks" / "under_agent.py")]
    late = {"OMP_NUM_THREADS": "1", "LATE_RANK": "1", "LATE_FROM": "6"}
    words = [*command, *small_run(tiny_shards, run, 8, *every)]
    done = subprocess.run(words, env={**os.environ, **late}, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "rank 1 of 2 has ended" in done.stderr
    assert re.search(r"going on from step [24] of 8", done.stderr)
    assert ranks.wait() == [0, 0], ranks.said()
    for name in ("model", "optimizer"):
        file = f"{checkpoint.FOLDER}/step_8/{name}.safetensors"
        assert (run / file).read_bytes() == (whole / file).read_bytes()
