"""A running mean (EMA) of the weights beside them: whoever reads the checkpoint is told which were taken, and can choose."""

import json
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForMaskedLM

from biomlm.convert.load import load_model
from biomlm.convert.safe_load import torch_file
from biomlm.core import cli
from biomlm.core.errors import CheckpointError

Convert = Callable[..., Path]


def moved(model: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    return {name: value * scale if value.is_floating_point() else value for name, value in model.items()}


def fairseqs(golden: Path, **extra: object) -> Path:
    """The golden checkpoint with more in its `extra_state`, as `fairseq/trainer.py` saves it."""
    heads, file = load_model(golden).config.num_attention_heads, golden / "checkpoint_best.pt"
    model = torch_file.load(file)["model"]
    state = {"args": Namespace(encoder_attention_heads=heads), "model": model}
    extra_state = {name: moved(model, scale) for name, scale in extra.items()}  # type: ignore[arg-type]
    torch.save({**state, "extra_state": extra_state}, golden / "new")
    (golden / "new").replace(file)  # what is read is a view of the old file
    return golden


def rows(folder: Path) -> Tensor:
    model = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True)
    return model.get_input_embeddings().weight.detach()


@pytest.mark.parametrize(("extra", "scale"), [({"ema": 0.5}, 0.5), ({"ema": 0.5, "ema_fp32_params": 0.25}, 0.25)])
def test_fairseqs(
    extra: dict[str, float],
    scale: float,
    one_golden: Path,
    convert: Convert,
    capsys: pytest.CaptureFixture[str],
) -> None:
    without = rows(convert(one_golden, "hf", "without"))
    fairseqs(one_golden, **extra)
    capsys.readouterr()
    trained = convert(one_golden, "hf", "trained")
    assert "--weights ema" in capsys.readouterr().out
    mean = convert(one_golden, "hf", "mean", weights="ema")
    assert torch.equal(rows(trained), without)
    torch.testing.assert_close(rows(mean), without * scale)
    said = [json.loads((folder / "conversion.json").read_text())["weights"] for folder in (trained, mean)]
    assert said[0].startswith("as trained; their running mean")
    assert said[1] == "the running mean (EMA)"
    load_model(one_golden)
    assert "running mean (EMA)" in capsys.readouterr().err


def test_a_run_of_ones_own(tiny_shards: Path, tmp_path: Path, convert: Convert) -> None:
    """As `pretrain average --ema` takes it out."""
    words = ["pretrain", "--shards", str(tiny_shards), "--batch.tokens", "256", "--batch.max_length", "32"]
    words += ["--model.num_hidden_layers", "1", "--model.hidden_size", "32", "--model.num_attention_heads", "2"]
    run, mean = tmp_path / "run", tmp_path / "mean"
    assert cli.run([*words, "--optim.lr", "1e-2", "--optim.ema", "0.9", "--steps", "4", "--out", str(run)]) == 0
    assert cli.run(["pretrain", "average", str(run), "--ema", "--out", str(mean)]) == 0
    taken, expected = rows(convert(run, "hf", "taken", weights="ema")), rows(convert(mean, "hf", "expected"))
    assert torch.equal(taken, expected)
    assert not torch.equal(taken, rows(convert(run, "hf", "trained")))


def test_composers(hf_model: transformers.RobertaForMaskedLM, tmp_path: Path, convert: Convert) -> None:
    own = {f"model.{name}": value for name, value in hf_model.state_dict().items()}
    config = {"model": {"config": {"content": hf_model.config.to_dict()}}}
    ema = {"ema_model": {"parameters": moved(own, 0.5), "buffers": {}}, "ema_started": True}
    state = {"model": own, "integrations": {"huggingface": config}, "algorithms": [("EMA", ema)]}
    torch.save({"state": state}, tmp_path / "ep1.pt")
    torch.testing.assert_close(
        rows(convert(tmp_path / "ep1.pt", "hf", "mean", weights="ema")),
        rows(convert(tmp_path / "ep1.pt", "hf", "trained")) * 0.5,
    )


def test_it_comes_with_the_tokenizer_given(tiny_shards: Path, tmp_path: Path, convert: Convert) -> None:
    """`--tokenizer` was passed over where `--weights ema` was given too."""
    words = ["pretrain", "--shards", str(tiny_shards), "--batch.tokens", "256", "--batch.max_length", "32"]
    words += ["--model.num_hidden_layers", "1", "--model.hidden_size", "32", "--model.num_attention_heads", "2"]
    run, other = tmp_path / "run", tmp_path / "other"
    assert cli.run([*words, "--optim.ema", "0.9", "--steps", "1", "--out", str(run)]) == 0
    shutil.copytree(run / "tokenizer", other)
    stated = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(stated | {"model_max_length": 7}))
    for weights in ("trained", "ema"):
        folder = convert(run, "hf", weights, weights=weights, tokenizer=str(other))
        assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 7, weights


def test_what_is_not_there_is_refused(hf_folder: Path, convert: Convert) -> None:
    with pytest.raises(CheckpointError, match="no running mean"):
        convert(hf_folder, "native", weights="ema")
    assert json.loads((convert(hf_folder, "native") / "conversion.json").read_text())["weights"] == "as trained"
