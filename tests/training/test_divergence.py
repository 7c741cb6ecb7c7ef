"""A run that went nowhere says so, keeps no checkpoint that nothing can go on from, and takes none up."""

import math
import random
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
from biomlm.core.metrics import read_metrics
from biomlm.model.optim.optimizer import Optimizer
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.training.divergence import Divergence

Words = Callable[..., list[str]]
MODEL_WORDS = 6  # words of a small run that say the shape of a model
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


def test_a_loss_that_gives_back_half_of_what_it_gained_diverges_and_noise_does_not() -> None:
    """The other side is the rule, recounted from the list of all losses."""
    draw = random.Random(1)
    falling = [2 + 8 * 0.99**step + draw.gauss(0, 0.3) for step in range(1500)]
    rising = [2 + 0.02 * step + draw.gauss(0, 0.3) for step in range(1000)]
    judge, means = Divergence(spike=20.0), [falling[0]]
    for step, loss in enumerate([*falling, *rising], 1):
        judge.after_step(step, loss, 1.0)
        if step > 1:
            means.append(means[-1] + max(1 / step, 0.01) * (loss - means[-1]))
        lowest = min(means[99:], default=math.inf)
        expected = len(means) > 100 and means[-1] > lowest + max(0.5 * (falling[0] - lowest), 0.25 * falling[0])
        assert bool(judge.problem) == expected, step
        if judge.problem:
            break
    assert judge.problem.startswith("the mean of the training loss is ")
    assert len(falling) < step < len(falling) + 500
    assert judge.before == means.index(min(means[99:])) + 1


def test_a_norm_that_drifts_and_a_held_out_loss_above_bare_frequencies_diverge() -> None:
    judge = Divergence(spike=20.0)
    for step in range(1, 2000):
        judge.after_step(step, 3.0, 1.01**step if step > 500 else 2.0)
        if judge.problem:
            break
    assert "gradient's norm" in judge.problem
    again = Divergence(spike=20.0)
    again.load(judge.state())
    assert (again.norm, again.problem) == (judge.norm, "")
    judge = Divergence(spike=0.0)
    for step, loss in ((10, 6.1), (20, 5.8), (30, 6.1)):
        judge.after_evaluation(step, loss, 6.0)
    assert not judge.problem, "it has hardly been below"
    judge = Divergence(spike=0.0)
    for step, loss in ((10, 9.0), (20, 7.0), (30, 5.0), (40, 5.9)):
        judge.after_evaluation(step, loss, 6.0)
    assert not judge.problem
    judge.after_evaluation(50, 6.1, 6.0)
    assert judge.problem == "the held-out loss is 6.1, above the 6 of bare frequencies, was 5 at step 30"
    assert judge.before == 30


@pytest.fixture
def rising(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate above 0.01 lets weights go wild: the losses of such runs rise, by this multiplication, as they would."""
    plain = Optimizer.update

    def update(self: Optimizer, step: int, norm: torch.Tensor) -> float:
        lr = plain(self, step, norm)
        if step >= 250 and self.lr_factor > 0.3:
            with torch.no_grad():
                for weight in self.named.values():
                    weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(step)), alpha=0.05)
        return lr

    monkeypatch.setattr(Optimizer, "update", update)


@pytest.mark.usefixtures("rising")
def test_a_run_that_diverges_stops_with_the_reason_and_goes_back_at_a_lower_rate(
    tiny_shards: Path, small_run: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    argv = small_run(tiny_shards, run, 400, "--save_every", "50", "--keep", "9", "--eval_every", "100")
    for _ in range(2):  # it stops each time
        assert cli.run(argv) == 2
        text = capsys.readouterr().err
        assert "the run diverges at step " in text
        assert "--guard.on_divergence halve" in text
        assert max(checkpoint.steps(run)) < 400
    assert cli.run([*argv, "--guard.on_divergence", "halve"]) == 0
    result: Any = read_json(run / "result.json")
    assert result["guard"]["rewinds"] == 2, "at half the rate, and at a quarter"
    assert result["valid"]["loss"] < result["unigram_entropy"]
    rates = {r["step"]: r["learning_rate"] for r in read_metrics(run) if r["split"] == "train"}
    state: Any = read_json(checkpoint.path_of(run, 400) / "state.json")
    assert state["engine"]["lr_factor"] == 0.25
    assert rates[400] <= 0.25 * 3e-3


def test_a_model_to_start_from_that_holds_nan_is_refused_as_such(
    tiny_shards: Path, tiny_model: Path, small_run: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    spoil(checkpoint.path_of(model, 0), math.nan)
    argv = small_run(tiny_shards, tmp_path / "run", 2, "--init", str(model))
    at = argv.index("--model.num_hidden_layers")
    assert cli.run([*argv[:at], *argv[at + MODEL_WORDS :]]) == 2
    assert "the tensor head.bias holds NaN or infinity.\nIts weights are damaged" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
