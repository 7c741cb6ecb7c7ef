"""kill -9 in the grid and in a seed: the same command goes on and ends with the bits of a run that was left alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from biomlm.core import cli
from biomlm.core.files import read_json, sha256

PATIENCE = 300  # seconds


def killed_when(seen: Callable[[], bool], argv: list[str]) -> None:
    """Start a command and kill it without warning as soon as something is there."""
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(
        [sys.executable, "-m", "biomlm.finetune", *argv], env=env, stderr=subprocess.DEVNULL
    ) as process:
        until = time.monotonic() + PATIENCE
        while not seen():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < until, "it did not get that far"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_a_killed_run_ends_with_the_same_bits(tiny_model: Path, toy: Path, tmp_path: Path) -> None:
    def argv(out: Path) -> list[str]:
        where = ["--model", str(tiny_model), "--task", "ner", "--data", str(toy), "--out", str(out)]
        return [*where, "--epochs", "2", "--batch.size", "8", "--grid.lr", "1e-3", "3e-3"]

    out, alone = tmp_path / "killed", tmp_path / "alone"
    grid = out / "grid"
    killed_when(lambda: any((grid / "lr_0.003_size_8").glob("checkpoints/step_*")), argv(out))
    first = (grid / "lr_0.001_size_8.json").stat().st_mtime_ns
    assert not (grid / "lr_0.003_size_8.json").exists()
    killed_when(lambda: any((out / "seed_1").glob("checkpoints/step_*")), argv(out))
    assert not (out / "seed_1/result.json").exists()
    assert cli.run(["finetune", *argv(out)]) == 0
    assert (grid / "lr_0.001_size_8.json").stat().st_mtime_ns == first  # a point that was done is not run again
    assert cli.run(["finetune", *argv(alone)]) == 0
    for name in ("checkpoints/step_0/model.safetensors", "checkpoints/step_0/rest.safetensors", "seed_1/test_rows.npy"):
        assert sha256(out / name) == sha256(alone / name)
    assert (out / "seed_1/predictions.jsonl").read_bytes() == (alone / "seed_1/predictions.jsonl").read_bytes()
    scores: list[dict[str, Any]] = [read_json(folder / "scores.json") for folder in (out, alone)]
    for score in scores:
        del score["runs"][0]["seconds"]
    assert scores[0] == scores[1]
