"""Killed or asked to stop, in the grid and in a seed: the same command goes on and ends with the bits of a run that was left alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from biomlm.core import checkpoint, cli
from biomlm.core.files import read_json, sha256
from biomlm.core.metrics import read_metrics

PATIENCE = 300  # seconds


def ended_when(seen: Callable[[], bool], argv: list[str], number: signal.Signals) -> int:
    """Start a command, and send it a signal as soon as something is there; its exit code."""
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(
        [sys.executable, "-m", "biomlm.finetune", *argv], env=env, stderr=subprocess.DEVNULL
    ) as process:
        until = time.monotonic() + PATIENCE
        while not seen():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < until, "it did not get that far"
            time.sleep(0.002)
        process.send_signal(number)
        return process.wait(PATIENCE)


def test_a_killed_run_ends_with_the_same_bits(tiny_model: Path, toy: Path, tmp_path: Path) -> None:
    def argv(out: Path) -> list[str]:
        where = ["--model", str(tiny_model), "--task", "ner", "--data", str(toy), "--out", str(out)]
        return [*where, "--epochs", "2", "--batch.size", "8", "--grid.lr", "1e-3", "3e-3"]

    out, alone = tmp_path / "killed", tmp_path / "alone"
    grid = out / "grid"
    seen = lambda: any((grid / "lr_0.003_size_8").glob("checkpoints/step_*"))  # noqa: E731
    assert ended_when(seen, argv(out), signal.SIGKILL) == -signal.SIGKILL
    first = (grid / "lr_0.001_size_8.json").stat().st_mtime_ns
    assert not (grid / "lr_0.003_size_8.json").exists()
    seen = lambda: any((out / "seed_1").glob("checkpoints/step_*"))  # noqa: E731
    assert ended_when(seen, argv(out), signal.SIGKILL) == -signal.SIGKILL
    assert not (out / "seed_1/result.json").exists()
    assert cli.run(["finetune", *argv(out)]) == 0
    assert (grid / "lr_0.001_size_8.json").stat().st_mtime_ns == first  # a point that was done is not run again
    assert cli.run(["finetune", *argv(alone)]) == 0
    require_same(out, alone)


def require_same(out: Path, alone: Path) -> None:
    """Assert that two finished runs hold the same, but for times."""
    for name in ("checkpoints/step_0/model.safetensors", "checkpoints/step_0/rest.safetensors", "seed_1/test_rows.npy"):
        assert sha256(out / name) == sha256(alone / name)
    assert (out / "seed_1/predictions.jsonl").read_bytes() == (alone / "seed_1/predictions.jsonl").read_bytes()
    scores: list[dict[str, Any]] = [read_json(folder / "scores.json") for folder in (out, alone)]
    for score in scores:
        del score["runs"][0]["seconds"]
    assert scores[0] == scores[1]
    histories: list[Any] = [read_json(folder / "seed_1/result.json")["history"] for folder in (out, alone)]
    assert [entry["loss"] for entry in histories[0]] == [entry["loss"] for entry in histories[1]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_costs_no_step(number: signal.Signals, tiny_model: Path, toy: Path, tmp_path: Path) -> None:
    """In the middle of an epoch: the step is finished and saved, the exit code is 75, and the folder says that it was stopped."""

    def argv(out: Path) -> list[str]:
        where = ["--model", str(tiny_model), "--task", "ner", "--data", str(toy), "--out", str(out)]
        return [*where, "--epochs", "2", "--batch.size", "2", "--optim.lr", "1e-3", "--log_every", "1"]

    def logged() -> int:
        return sum(record["split"] == "train" for record in read_metrics(out / "seed_1"))

    out, alone = tmp_path / "stopped", tmp_path / "alone"
    assert ended_when(lambda: logged() >= 3, argv(out), number) == 75
    (step,) = checkpoint.steps(out / "seed_1")
    state = checkpoint.load(checkpoint.path_of(out / "seed_1", step)).state
    assert logged() == step, "nothing was computed behind the checkpoint"
    assert state["epoch"]["steps"] + 80 * len(state["history"]) == step
    assert step % 80 > 0, "it lies within an epoch"
    assert read_json(out / "manifest.json")["status"] == "stopped"
    assert cli.run(["finetune", *argv(out)]) == 0
    assert cli.run(["finetune", *argv(alone)]) == 0
    require_same(out, alone)
