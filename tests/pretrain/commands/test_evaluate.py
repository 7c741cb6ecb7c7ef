"""`biomlm pretrain evaluate`: the figures that a run ends with, computed anew from its folder and from what it was converted to."""

from pathlib import Path

import pytest

from biomlm.core import cli
from biomlm.core.files import read_json

SIZES = "--batch.tokens 256 --batch.max_length 32 --precision fp32 --model.num_hidden_layers 1 --model.hidden_size 16"
SHAPE = "--model.num_attention_heads 2 --steps 4 --seed 1"


@pytest.fixture(scope="module")
def run(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "run"
    words = f"{SIZES} {SHAPE}".split()
    assert cli.run(["pretrain", "--shards", str(tiny_shards), "--out", str(out), *words]) == 0
    return out


def evaluate(model: Path, shards: Path, out: Path, *more: str) -> int:
    words = ["--shards", str(shards), "--out", str(out), "--precision", "fp32", *more]
    return cli.run(["pretrain", "evaluate", str(model), *words])


@pytest.mark.parametrize("tokens", ["64", "4096"])
def test_it_finds_what_the_run_ended_with(run: Path, tiny_shards: Path, tmp_path: Path, tokens: str) -> None:
    assert evaluate(run, tiny_shards, tmp_path / "out", "--tokens", tokens) == 0
    own, anew = (read_json(folder / "result.json")["valid"] for folder in (run, tmp_path / "out"))
    assert isinstance(own, dict)
    assert isinstance(anew, dict)
    assert anew["masked_tokens"] == own["masked_tokens"] > 50
    assert anew["loss"] == pytest.approx(own["loss"], abs=1e-5)
    assert anew["accuracy"] == own["accuracy"]


def test_shorter_sequences_are_evaluated_as_such(run: Path, tiny_shards: Path, tmp_path: Path) -> None:
    assert evaluate(run, tiny_shards, tmp_path / "out", "--max_length", "16", "--eval_tokens", "100") == 0
    result = read_json(tmp_path / "out" / "result.json")["valid"]
    assert isinstance(result, dict)
    assert 100 <= result["tokens"] < 116


def test_a_model_without_a_head_and_shards_without_a_held_out_part_are_refused(
    run: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import RobertaConfig, RobertaModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    RobertaModel(RobertaConfig(vocab_size=300, **sizes)).save_pretrained(tmp_path / "headless")
    assert evaluate(tmp_path / "headless", tiny_shards, tmp_path / "out") == 2
    assert "this model has no masked-LM head" in capsys.readouterr().err
    assert evaluate(run, tiny_shards, tmp_path / "out", "--max_length", "64") == 2
    assert "the model has 32 positions, sequences up to 64 tokens" in capsys.readouterr().err
