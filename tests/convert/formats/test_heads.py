"""Encoders without a masked-LM head, as many are published, and with a classifier in its place: against transformers' classes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from biomlm.convert.commands.check import differences
from biomlm.convert.load import load_model
from biomlm.core.cli import run as command
from biomlm.core.errors import CheckpointError, MismatchError
from biomlm.model.packed import unpad

Convert = Callable[..., Path]
SIZES = {
    "vocab_size": 89,
    "hidden_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
SPECIAL = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
FAMILIES: dict[str, Callable[[], Any]] = {
    "Roberta": lambda: transformers.RobertaConfig(**SIZES, type_vocab_size=1),
    "Bert": lambda: transformers.BertConfig(**SIZES),
    "MegatronBert": lambda: transformers.MegatronBertConfig(**SIZES),
    "ModernBert": lambda: transformers.ModernBertConfig(**SIZES, **SPECIAL, local_attention=12),
}


def saved(name: str, folder: Path) -> Any:
    """A random model of one of transformers' classes, saved by it."""
    torch.manual_seed(0)
    family = next(f for f in sorted(FAMILIES, key=len, reverse=True) if name.startswith(f))
    config = FAMILIES[family]()
    config.num_labels = 2 if name.endswith("ForQuestionAnswering") else 3  # a start and an end
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15)
    model.save_pretrained(folder)
    return model


@pytest.fixture(params=list(FAMILIES))
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An encoder alone, whose tensors have no prefix."""
    saved(f"{request.param}Model", tmp_path / "encoder")
    return tmp_path / "encoder"


def test_an_encoder_alone_is_a_model(encoder: Path) -> None:
    ids, real = torch.randint(5, 89, (2, 30)), torch.arange(30) < torch.tensor([30, 7])[:, None]
    theirs = transformers.AutoModel.from_pretrained(encoder, local_files_only=True).eval()
    loaded = load_model(encoder)
    assert not loaded.has_head
    with torch.inference_mode():
        expected = theirs(torch.where(real, ids, 1), attention_mask=real.long()).last_hidden_state[real]
        torch.testing.assert_close(loaded.model.encoder(unpad(ids, real))[-1], expected, atol=1e-5, rtol=1e-5)
    new, again = loaded.model.head.state_dict(), load_model(encoder).model.head.state_dict()
    assert all(torch.equal(new[name], again[name]) for name in new)


def test_an_encoder_alone_goes_out_and_back_bit_equal(encoder: Path, convert: Convert) -> None:
    native = convert(encoder, "native")
    assert not load_model(native).has_head
    assert json.loads((native / "conversion.json").read_text())["max_difference_logits"] is None
    back = convert(native, "hf", "back")
    before, after = load_file(encoder / "model.safetensors"), load_file(back / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "feature-extraction" in (back / "README.md").read_text()
    with pytest.raises(MismatchError, match="fairseq has no"):
        convert(encoder, "fairseq")


CLASSIFIERS = (
    "RobertaForSequenceClassification",
    "RobertaForTokenClassification",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
    "MegatronBertForSequenceClassification",
    "ModernBertForSequenceClassification",
    "ModernBertForTokenClassification",
)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_without_a_masked_lm_head_survives(name: str, tmp_path: Path, convert: Convert) -> None:
    """Its own class computes the same from the folder that went through native, and the labels are there."""
    model = saved(name, tmp_path / "source")
    back = convert(convert(tmp_path / "source", "native"), "hf", "back")
    read, info = getattr(transformers, name).from_pretrained(back, local_files_only=True, output_loading_info=True)
    assert not info["missing_keys"]
    assert read.config.id2label == model.config.id2label
    assert read.config.architectures == [name]
    ids = torch.randint(5, 89, (2, 20))
    with torch.inference_mode():
        expected, found = model(ids).to_tuple(), read.eval()(ids).to_tuple()
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_head_that_the_configuration_promises_must_be_there(tmp_path: Path) -> None:
    saved("BertForMaskedLM", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if not k.startswith("cls.")}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no masked-LM head"):
        load_model(tmp_path)


def test_half_a_head_is_refused(tmp_path: Path) -> None:
    saved("BertModel", tmp_path)
    tensors = {f"bert.{k}": v for k, v in load_file(tmp_path / "model.safetensors").items()}
    tensors["cls.predictions.transform.dense.bias"] = torch.ones(36)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"transform\.dense\.bias is unexpected"):
        load_model(tmp_path)


def test_without_a_head_the_encoders_are_compared_and_nothing_is_filled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved("BertModel", tmp_path / "a")
    assert differences(load_model(tmp_path / "a"), load_model(tmp_path / "a")).said == "no masked-LM head"
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(84)))
    (tmp_path / "a" / "vocab.txt").write_text("\n".join(pieces) + "\n")
    assert command(["convert", "fill", str(tmp_path / "a"), "--sentences", "a <mask>"]) == 2
    assert "no masked-LM head" in capsys.readouterr().err
