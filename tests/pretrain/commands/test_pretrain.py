"""`biomlm pretrain` end to end: it learns, it resumes to the same bits after kill -9, and it refuses what does not belong together."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from biomlm.convert.load import load_model
from biomlm.core import checkpoint, cli
from biomlm.core.files import read_json
from biomlm.core.metrics import read_metrics
from biomlm.model.device import choose
from biomlm.pretrain.data.batches import Batches
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.objectives.config import MlmConfig
from biomlm.pretrain.training.evaluate import Evaluator

MODEL = ["--model.num_hidden_layers", "2", "--model.hidden_size", "32", "--model.num_attention_heads", "2"]
SMALL = ["--batch.tokens", "256", "--batch.max_length", "32", "--optim.lr", "3e-3", "--seed", "1", "--save_every", "10"]


def argv(shards: Path, out: Path, steps: int, *more: str) -> list[str]:
    size = ["--model.size", "tiny", *MODEL] if "--init" not in more else []
    return ["pretrain", "--shards", str(shards), "--out", str(out), "--steps", str(steps), *size, *SMALL, *more]


def weights(run: Path, step: int) -> bytes:
    return (checkpoint.path_of(run, step) / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of 120 steps."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert cli.run(argv(tiny_shards, run, 120)) == 0
    return run


def test_it_learns(whole: Path) -> None:
    result = read_json(whole / "result.json")
    assert result["valid"]["loss"] < result["unigram_entropy"] - 0.3  # type: ignore[index, operator]
    losses = [r["loss"] for r in read_metrics(whole) if r["split"] == "train"]
    assert losses[-1] < losses[0]
    assert result["tokens"] == pytest.approx(120 * 256, rel=0.1)


def test_an_empty_step_counts_no_token(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long sequence may leave the micro-batch behind it without any."""
    plain = Batches.micro_batch
    monkeypatch.setattr(Batches, "micro_batch", lambda self, *name: None if name == (0, 1) else plain(self, *name))
    assert cli.run(argv(tiny_shards, tmp_path / "run", 3, "--eval_tokens", "64")) == 0
    plan = Batches(Shards([str(tiny_shards)], "train"), MlmConfig(), BatchConfig(tokens=256, max_length=32), 1)
    read = [sum(len(batch.packed.input_ids_t) for batch in plan.step(step)) for step in range(3)]
    assert read[1] == 0
    assert read_json(tmp_path / "run" / "result.json")["tokens"] == sum(read)


def test_a_second_call_has_nothing_to_do(whole: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = weights(whole, 120)
    assert cli.run(argv(tiny_shards, whole, 120)) == 0
    assert "held-out loss" in capsys.readouterr().out
    assert weights(whole, 120) == before


def test_kill_9_then_resume_gives_the_same_bits(whole: Path, tiny_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "biomlm.pretrain", *argv(tiny_shards, run, 120)[1:]]
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while not checkpoint.steps(run) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert 0 < max(checkpoint.steps(run)) < 120
    assert cli.run(argv(tiny_shards, run, 120)) == 0
    assert weights(run, 120) == weights(whole, 120)
    assert comparable(run) == comparable(whole)


def comparable(run: Path) -> list[dict[str, object]]:
    timed = ("tokens_per_second", "mfu", "data_wait", "slowest_rank", "slowest_ratio")
    return [{k: v for k, v in record.items() if k not in timed} for record in read_metrics(run)]


def test_a_damaged_newest_checkpoint_costs_only_its_steps(whole: Path, tiny_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "damaged"
    shutil.copytree(whole, run)
    (checkpoint.path_of(run, 120) / "model.safetensors").write_bytes(b"broken")
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"done"', '"running"'))
    assert cli.run(argv(tiny_shards, run, 120)) == 0
    assert weights(run, 120) == weights(whole, 120)


def test_gradient_accumulation_equals_one_large_batch(tiny_shards: Path, tmp_path: Path) -> None:
    """Without dropout, two half micro-batches a step move the weights as one whole, but for rounding and the cut between batches."""
    dry = ["--model.hidden_dropout", "0", "--model.attention_dropout", "0", "--precision", "fp32"]
    for name, sizes in (("one", ["512", "1"]), ("two", ["256", "2"])):
        more = ["--batch.tokens", sizes[0], "--batch.accumulation", sizes[1], *dry]
        assert cli.run(argv(tiny_shards, tmp_path / name, 10, *more)) == 0
    losses = [read_metrics(tmp_path / name)[-1]["loss"] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_warm_start_begins_where_the_other_model_ended(whole: Path, tiny_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "warm"
    assert (
        cli.run(argv(tiny_shards, run, 1, "--init", str(whole), "--optim.lr", "1e-9", "--optim.weight_decay", "0")) == 0
    )
    started = load_file(checkpoint.path_of(run, 1) / "model.safetensors")
    for name, tensor in load_file(checkpoint.path_of(whole, 120) / "model.safetensors").items():
        assert (started[name] - tensor).abs().max() < 1e-7


@pytest.mark.parametrize(
    "words",
    [
        ["--model.num_hidden_layers", "7"],
        ["--model.shape", "modernbert"],
        ["--model.size", "mini"],
        ["--model.hidden_dropout", "0.5"],
        ["--model.pad_vocab_to", "64"],
    ],
)
@pytest.mark.parametrize("start", ["--init", "--longer"])
def test_a_model_to_start_from_keeps_its_shape(
    whole: Path, tiny_shards: Path, tmp_path: Path, start: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    small = [
        "pretrain",
        "--shards",
        str(tiny_shards),
        *SMALL,
        "--steps",
        "1",
        start,
        str(whole),
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli.run([*small, *words]) == 2
    said = capsys.readouterr().err
    assert words[0][2:].replace("model.size", "model.hidden_size") in said
    assert "and this model has" in said
    assert not (tmp_path / "run").exists()


def test_what_agrees_with_the_model_to_start_from_is_taken(whole: Path, tiny_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["pretrain", "--shards", str(tiny_shards), *SMALL, "--steps", "1", "--eval_tokens", "64", "--out", str(run)]
    assert cli.run([*words, "--init", str(whole), *MODEL, "--model.size", "tiny"]) == 0


def test_padded_rows_never_enter_the_vocabulary(tiny_shards: Path, tmp_path: Path) -> None:
    """GatorTron's users met 50,176 embedding rows and 50,101 items: ours are silent, and conversion can cut them."""
    run, out = tmp_path / "run", tmp_path / "hf"
    assert cli.run(argv(tiny_shards, run, 20, "--model.pad_vocab_to", "64")) == 0
    state = load_file(checkpoint.path_of(run, 20) / "model.safetensors")
    assert state["encoder.word_embeddings.weight"].shape[0] == 320
    assert (state["head.bias"][300:] == -1e4).all()
    assert cli.run(["convert", str(run), str(out), "--to", "hf", "--rows", "cut"]) == 0
    assert load_file(out / "model.safetensors")["roberta.embeddings.word_embeddings.weight"].shape[0] == 300
    assert read_json(out / "tokenizer_config.json")["model_max_length"] == 32, "no more than the model has positions"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seed", "2"], "seed"),
        (["--batch.tokens", "8"], "less than one sequence"),
        (["--optim.lrr", "1"], "--optim.lr"),
        (["--shards", "/no/such/shards"], "--shards is given twice"),
        (["--init", "/no/such/model"], "/no/such/model"),
    ],
)
def test_mistakes_end_in_two_lines(
    whole: Path, tiny_shards: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(argv(tiny_shards, whole, 120, *more)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) <= 2


def test_shards_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(argv(Path("/no/such/shards"), tmp_path / "run", 120)) == 2
    assert "/no/such/shards" in capsys.readouterr().err


def test_shards_of_another_tokenizer_are_refused(
    whole: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs, tokenizer, shards = tmp_path / "docs", tmp_path / "tokenizer", tmp_path / "shards"
    shutil.copytree(whole.parent, docs, dirs_exist_ok=True)
    source = read_json(tiny_shards / "manifest.json")["config"]["docs"]  # type: ignore[index]
    assert cli.run(["tokenizer", "train", "--docs", source, "--vocab_size", "290", "--out", str(tokenizer)]) == 0
    assert cli.run(["tokenizer", "encode", "--docs", source, "--tokenizer", str(tokenizer), "--out", str(shards)]) == 0
    capsys.readouterr()
    assert cli.run(argv(shards, tmp_path / "run", 5, "--init", str(whole))) == 2
    assert "the model's tokenizer is not that of" in capsys.readouterr().err
    assert cli.run(argv(shards, whole, 120)) == 2
    assert "made with another" in capsys.readouterr().err
    before = read_json(whole / "manifest.json")
    assert cli.run(argv(shards, whole, 130, "--override")) == 2
    assert "weights are of this tokenizer" in capsys.readouterr().err
    assert read_json(whole / "manifest.json") == before


STEADY = ["--optim.schedule", "constant", "--optim.warmup", "0"]


def test_training_longer_is_training_on(tiny_shards: Path, tmp_path: Path) -> None:
    """Under a constant rate, 20 steps and 20 more are 40, to the bit: weights, moments and place in the data are taken over."""
    first, second, through = tmp_path / "first", tmp_path / "second", tmp_path / "through"
    assert cli.run(argv(tiny_shards, first, 20, *STEADY)) == 0
    assert cli.run(argv(tiny_shards, second, 20, *STEADY, "--longer", str(first))) == 0
    assert cli.run(argv(tiny_shards, through, 40, *STEADY)) == 0
    assert weights(second, 20) == weights(through, 40)


def test_averages_of_a_run_are_models_of_their_own(tiny_shards: Path, tmp_path: Path) -> None:
    run, mean, ema = tmp_path / "run", tmp_path / "mean", tmp_path / "ema"
    assert cli.run(argv(tiny_shards, run, 30, "--optim.ema", "0.9", "--keep", "3")) == 0
    assert cli.run(["pretrain", "average", str(run), "--last", "3", "--out", str(mean)]) == 0
    assert cli.run(["pretrain", "average", str(run), "--ema", "--out", str(ema)]) == 0
    saved = [load_file(checkpoint.path_of(run, step) / "model.safetensors") for step in (10, 20, 30)]
    averaged = load_file(checkpoint.path_of(mean, 0) / "model.safetensors")
    for name, tensor in averaged.items():
        torch.testing.assert_close(tensor, sum(one[name] for one in saved) / 3, atol=1e-6, rtol=1e-5)
    figures = [r for r in read_metrics(run) if r["split"] == "valid"][-1]
    model = load_model(ema)
    assert figures["ema_loss"] != figures["loss"]
    held_out = Evaluator(Shards([str(tiny_shards)], "valid"), BatchConfig(tokens=256, max_length=32), 0.15, 0)
    assert held_out(model.model, choose("auto")).loss == pytest.approx(figures["ema_loss"], abs=1e-4)
    (checkpoint.path_of(mean, 0) / "model.safetensors").write_bytes(b"")
    assert cli.run(["pretrain", "average", str(run), "--last", "3", "--out", str(mean)]) == 2


def test_averaging_more_than_there_is_is_refused(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["pretrain", "average", str(whole), "--last", "9", "--out", str(tmp_path / "m")]) == 2
    assert cli.run(["pretrain", "average", str(whole), "--ema", "--out", str(tmp_path / "m")]) == 2
    said = capsys.readouterr().err
    assert "of which 9 are to be averaged" in said
    assert "kept no running mean" in said
