"""fairseq as an engine: its call from our configuration, its log in our terms, and with its environment a whole small run."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from biomlm.convert.load import load_model
from biomlm.core import cli
from biomlm.core.config import fairseq_env
from biomlm.core.errors import ConfigError
from biomlm.core.files import read_json
from biomlm.core.metrics import read_metrics
from biomlm.model.config import EncoderConfig, ModelConfig
from biomlm.model.optim.config import OptimConfig
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.fairseq_engine.command import call, record
from biomlm.pretrain.fairseq_engine.start import Gpus, Start
from biomlm.pretrain.objectives.config import MlmConfig, ObjectiveConfig

LOG = '2026-11-22 16:00:00 | INFO | {} | {{"epoch": 1, {}}}\n'


@pytest.fixture
def encoder() -> EncoderConfig:
    return ModelConfig(size="tiny").resolve(300, 32, 1)


def test_the_call_says_what_the_configuration_says(encoder: EncoderConfig) -> None:
    optim = OptimConfig(lr=1e-3, warmup=0.1, final=0.1)
    config = PretrainConfig(shards="S", out="O", steps=50, seed=3, batch=BatchConfig(256, 4, 32), optim=optim)
    words = call(config, encoder, "fp16", gpus=Gpus(1))
    said = dict(zip(words[1::2], words[2::2], strict=False))
    assert words[0] == "S"
    assert {"--fp16", "--skip-invalid-size-inputs-valid-test"} <= set(words)
    assert "--cpu" not in words
    for name, value in {
        "--update-freq": "4",
        "--max-tokens": "256",
        "--warmup-updates": "5",
        "--total-num-update": "50",
        "--end-learning-rate": "0.0001",
        "--leave-unmasked-prob": "0.1",
        "--adam-betas": "(0.9, 0.98)",
        "--encoder-layers": str(encoder.num_hidden_layers),
        "--seed": "3",
        "--save-dir": "O/fairseq",
    }.items():
        assert said[name] == value


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"mlm": MlmConfig(unit="word")}, "single tokens"),
        ({"optim": OptimConfig(schedule="cosine")}, "schedule cosine"),
        ({"shards": ["A", "B"]}, "several folders"),
        ({"longer": "run", "optim": OptimConfig(warmup=0.1)}, "warm-up of a run that is trained longer"),
        ({"model": ModelConfig(pad_vocab_to=64)}, "pad_vocab_to"),
        ({"objective": ObjectiveConfig(mlm=0.5)}, "objective.mlm"),
    ],
)
def test_what_fairseq_cannot_do_is_refused(asked: dict[str, object], said: str, encoder: EncoderConfig) -> None:
    config = PretrainConfig(**{"shards": "S", "out": "O", **asked})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=said):
        call(config, encoder, "fp32", gpus=Gpus())


def test_a_run_that_is_trained_longer_falls_from_the_peak_on(encoder: EncoderConfig) -> None:
    """fairseq's polynomial schedule (fairseq/optim/lr_scheduler), counted out: the peak where the first run ended, 0 at the end."""
    config = PretrainConfig(shards="S", out="O", longer="R", steps=50, optim=OptimConfig(lr=1e-3, warmup=0.0))
    words = call(config, encoder, "fp32", gpus=Gpus(), start=Start({"restore-file": "R/fairseq/x.pt"}, 200))
    said = dict(zip(words[1::2], words[2::2], strict=False))
    warmup, total = int(said["--warmup-updates"]), int(said["--total-num-update"])
    rates = [1e-3 * (n / warmup if n <= warmup else 1 - (n - warmup) / (total - warmup)) for n in (200, 225, 250)]
    assert rates == pytest.approx([1e-3, 5e-4, 0])
    assert (said["--max-update"], said["--restore-file"]) == ("250", "R/fairseq/x.pt")


def test_several_ranks_do_not_start_a_fairseq_each(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    words = [
        "--shards",
        str(tiny_shards),
        "--engine",
        "fairseq",
        "--model.size",
        "tiny",
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli.run(["pretrain", *words]) == 2
    assert "a fairseq of its own in one folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_its_log_is_read_in_nats() -> None:
    line = LOG.format(
        "train_inner", '"loss": "2", "wps": "10.5", "wpb": "64", "num_updates": "5", "lr": "0.1", "gnorm": "3"'
    )
    found = record(line)
    assert found is not None
    step, split, figures = found
    assert (step, split, figures["loss"]) == (5, "train", pytest.approx(1.386294))
    assert (figures["words"], figures["learning_rate"], figures["gradient_norm"]) == (64, 0.1, 3)
    assert record(LOG.format("valid", '"valid_loss": "1", "valid_num_updates": "7"')) == (
        7,
        "valid",
        {"fairseq_loss": pytest.approx(0.693147)},
    )
    for odd in ("text", LOG.format("train_inner", '"loss": '), LOG.format("train_inner", '"loss": "x"'), ""):
        assert record(odd) is None


def test_without_its_environment_it_says_what_makes_one(
    tiny_shards: Path,
    small_run: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BIOMLM_FAIRSEQ_ENV", str(tmp_path / "none"))
    assert cli.run(small_run(tiny_shards, tmp_path / "run", 2, "--engine", "fairseq")) == 2
    assert "biomlm-fairseq-env" in capsys.readouterr().err


def test_a_program_that_fails_shows_its_last_lines(
    tiny_shards: Path,
    small_run: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = tmp_path / "env" / "bin" / "fairseq-train"
    program.parent.mkdir(parents=True)
    line = LOG.format("train_inner", '"loss": "2", "wpb": "64", "num_updates": "1"').strip()
    program.write_text(f"#!/bin/sh\necho '{line}'\necho broken\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("BIOMLM_FAIRSEQ_ENV", str(tmp_path / "env"))
    assert cli.run(small_run(tiny_shards, tmp_path / "run", 2, "--engine", "fairseq")) == 2
    said = capsys.readouterr().err
    assert "+ " in said
    assert "broken" in said
    assert "ended with code 3" in said
    assert read_metrics(tmp_path / "run")[0]["tokens"] == 64


class Evil:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)


def test_a_strangers_checkpoint_that_would_run_code_is_not_handed_on(
    tiny_shards: Path,
    small_run: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program, started, ran = tmp_path / "env" / "bin" / "fairseq-train", tmp_path / "started", tmp_path / "ran"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\ntouch {started}\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("BIOMLM_FAIRSEQ_ENV", str(tmp_path / "env"))
    words = small_run(tiny_shards, tmp_path / "run", 2, "--engine", "fairseq")
    assert cli.run(words) == 2
    started.unlink()
    (tmp_path / "run" / "fairseq").mkdir(exist_ok=True)
    torch.save({"model": {}, "args": Evil(ran)}, tmp_path / "run" / "fairseq" / "checkpoint_last.pt")
    capsys.readouterr()
    assert cli.run(words) == 2
    assert "could run code" in capsys.readouterr().err
    assert not started.exists()
    assert not ran.exists()


@pytest.mark.slow
def test_the_real_one_trains_and_its_model_is_a_run(
    tiny_shards: Path, small_run: Callable[..., list[str]], tmp_path: Path
) -> None:
    folder = fairseq_env()
    if not (folder / "bin" / "fairseq-train").exists():
        pytest.skip("there is no environment with fairseq (docs/fairseq.md)")
    run, hf = tmp_path / "run", tmp_path / "hf"
    argv = small_run(tiny_shards, run, 20, "--engine", "fairseq", "--log_every", "5")
    assert cli.run(argv) == 0
    losses = {r["step"]: r["loss"] for r in read_metrics(run) if r["split"] == "train"}
    assert list(losses) == [5, 10, 15, 20]
    assert losses[20] < losses[5]
    assert read_json(run / "result.json")["valid"]["loss"] == pytest.approx(losses[20], abs=1.0)  # type: ignore[index]
    assert load_model(run).config.num_hidden_layers == 2
    assert cli.run(["convert", str(run), str(hf), "--to", "hf"]) == 0
    assert cli.run(argv) == 0, "nothing is left to do"


@pytest.mark.slow
def test_the_real_one_starts_from_a_model_and_trains_longer(
    tiny_shards: Path, small_run: Callable[..., list[str]], tmp_path: Path
) -> None:
    if not (fairseq_env() / "bin" / "fairseq-train").exists():
        pytest.skip("there is no environment with fairseq (docs/fairseq.md)")
    ours, began, longer = tmp_path / "ours", tmp_path / "began", tmp_path / "longer"
    assert cli.run(small_run(tiny_shards, ours, 40)) == 0
    fairseq = ["--engine", "fairseq", "--log_every", "1", "--optim.warmup", "0", "--optim.lr", "1e-6"]
    assert cli.run(small_run(tiny_shards, began, 4, *fairseq, "--init", str(ours))) == 0
    losses = {run: read_json(run / "result.json")["valid"]["loss"] for run in (ours, began)}  # type: ignore[index]
    assert losses[began] == pytest.approx(losses[ours], abs=0.01), "it goes on with those weights"
    assert cli.run(small_run(tiny_shards, longer, 3, *fairseq, "--longer", str(began))) == 0
    logged = [r for r in read_metrics(longer) if r["split"] == "train"]
    assert [r["step"] for r in logged] == [1, 2, 3]
    assert [r["learning_rate"] for r in logged] == pytest.approx([2e-6 / 3, 1e-6 / 3, 0], abs=1e-9)
    refused = small_run(tiny_shards, tmp_path / "none", 3, *fairseq, "--longer", str(ours))
    assert cli.run(refused) == 2
