"""A run that went nowhere says so, keeps no checkpoint that nothing can go on from, and takes none up."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from biomlm.core import checkpoint, cli
from biomlm.core.files import read_json, sha256, write_json
from biomlm.model.optim.optimizer import Optimizer
from biomlm.pretrain.objectives.base import PretrainObjective

Words = Callable[..., list[str]]
EVERY = ["--log_every", "1", "--save_every", "4", "--keep", "9"]


def numbers(folder: Path) -> list[torch.Tensor]:
    """All tensors of a folder's files, by safetensors alone."""
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found += [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 it is no dictionary
    return found


def reopen(run: Path) -> None:
    """As if the run had been killed right before its end."""
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"done"', '"running"'))


def spoil(folder: Path, value: float) -> None:
    """One number of a checkpoint's model, under a hash that fits."""
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["head.bias"][3] = value
    save_file(tensors, path)
    state: Any = read_json(folder / "state.json")
    write_json(folder / "state.json", {**state, "sha256": {**state["sha256"], path.name: sha256(path)}})


def test_weights_that_are_not_finite_are_not_saved(
    tiny_shards: Path,
    small_run: Words,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the fourth step the rate is more than float32 holds, and the gradient finite."""
    far = ["--save_every", "1", "--keep", "99"]
    argv = small_run(tiny_shards, tmp_path / "run", 16, *far)
    plain = Optimizer.update

    def update(self: Optimizer, step: int, norm: torch.Tensor) -> float:
        self.config = replace(self.config, lr=3e-3 if step < 3 else 1e39)
        return plain(self, step, norm)

    monkeypatch.setattr(Optimizer, "update", update)
    for _ in range(2):
        assert cli.run(argv) == 2
        assert "the weights after step 4 are not finite, and 3 returns did not help" in capsys.readouterr().err
        assert checkpoint.steps(tmp_path / "run") == [1, 2, 3]
        assert all(
            tensor.isfinite().all() for s in (1, 2, 3) for tensor in numbers(checkpoint.path_of(tmp_path / "run", s))
        )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_checkpoint_that_is_not_finite_is_passed_over(
    value: float, tiny_shards: Path, small_run: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert cli.run(small_run(tiny_shards, whole, 8, *EVERY)) == 0
    shutil.copytree(whole, run)
    spoil(checkpoint.path_of(run, 8), value)
    reopen(run)
    capsys.readouterr()
    assert cli.run(small_run(tiny_shards, run, 8, *EVERY)) == 0
    said = capsys.readouterr().err
    assert "step_8 holds numbers that are not finite and is passed over" in said
    assert "going on from step 4" in said
    name = "model.safetensors"
    assert (checkpoint.path_of(run, 8) / name).read_bytes() == (checkpoint.path_of(whole, 8) / name).read_bytes()
    for step in (4, 8):
        spoil(checkpoint.path_of(run, step), value)
    reopen(run)
    assert cli.run(small_run(tiny_shards, run, 8, *EVERY)) == 2
    assert "no checkpoint holds finite numbers only" in capsys.readouterr().err


def test_divergence_is_no_success(
    tiny_shards: Path, small_run: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All losses are finite, and far above those of a blind guess."""
    argv = small_run(tiny_shards, tmp_path / "run", 8, "--optim.lr", "30", "--optim.clip", "0", "--guard.spike", "0")
    for _ in range(2):
        assert cli.run(argv) == 2
        assert "the run diverged: its held-out loss is" in capsys.readouterr().err
    assert read_json(tmp_path / "run" / "manifest.json")["status"] == "running"


def test_a_run_of_bad_steps_alone_is_no_success(
    tiny_shards: Path,
    small_run: Words,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They are fewer than those that make a run go back."""
    plain = PretrainObjective.forward

    def forward(*args: Any) -> dict[str, torch.Tensor]:
        terms = plain(*args)
        return {**terms, "loss": terms["loss"] * math.nan}

    monkeypatch.setattr(PretrainObjective, "forward", forward)
    assert cli.run(small_run(tiny_shards, tmp_path / "run", 3, *EVERY)) == 2
    assert "none of 3 steps moved the weights" in capsys.readouterr().err
