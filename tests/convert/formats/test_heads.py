"""Encoders without a masked-LM head, as many are published, and with a classifier in its place: against transformers' classes."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from biomlm.convert.commands.check import differences
from biomlm.convert.formats import hf, native
from biomlm.convert.formats.base import Format
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.load import load_model, read_source
from biomlm.core.cli import run as command
from biomlm.core.errors import CheckpointError, ConversionError, MismatchError
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
    "RobertaPreLayerNorm": lambda: transformers.RobertaPreLayerNormConfig(**SIZES, type_vocab_size=1),
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
    assert differences(read_source(tmp_path / "a"), read_source(tmp_path / "a")).summary_text == "no masked-LM head"
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(84)))
    (tmp_path / "a" / "vocab.txt").write_text("\n".join(pieces) + "\n")
    assert command(["convert", "fill", str(tmp_path / "a"), "--sentences", "a <mask>"]) == 2
    assert "no masked-LM head" in capsys.readouterr().err


ALL_HEADS = (
    *CLASSIFIERS,
    "RobertaModel",
    "BertModel",
    "BertForPreTraining",
    "BertForMultipleChoice",
    "BertForNextSentencePrediction",
    "RobertaForQuestionAnswering",
    "MegatronBertForPreTraining",
    "RobertaPreLayerNormForSequenceClassification",
)


def written_by(known: Format, write: Callable[..., Any]) -> Format:
    """The format with another writer."""
    assert known.target
    return replace(known, target=replace(known.target, write=write))


@pytest.mark.parametrize(
    ("name", "to"),
    [*((name, "hf") for name in ALL_HEADS), ("BertForPreTraining", "native"), (CLASSIFIERS[-1], "native")],
)
def test_every_head_is_compared(name: str, to: str, tmp_path: Path, convert: Convert, monkeypatch: Any) -> None:
    """One that is written at −3 times its size is found, and named."""
    saved(name, tmp_path / "source")
    good = json.loads((convert(tmp_path / "source", to, "good") / "conversion.json").read_text())
    assert good["max_difference_heads"], "there are heads"
    assert all(value <= 1e-5 for value in good["max_difference_heads"].values())
    for head in good["max_difference_heads"]:
        for tensor in load_model(tmp_path / "source").extra_tensors:
            if not tensor.startswith(f"{head}.") or not tensor.endswith("weight"):
                continue
            writer = {"hf": hf, "native": native}[to]
            write, kept = writer.write, writer.FORMAT

            def wrong(parts: SourceCheckpoint, *rest: Any, write: Any = write, tensor: str = tensor) -> Any:
                return write(
                    replace(parts, extra_tensors={**parts.extra_tensors, tensor: parts.extra_tensors[tensor] * -3}),
                    *rest,
                )

            monkeypatch.setattr(writer, "FORMAT", written_by(kept, wrong))
            with pytest.raises(ConversionError, match=f"the head {re.escape(head)}"):
                convert(tmp_path / "source", to, "bad")
            monkeypatch.setattr(writer, "FORMAT", kept)
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "place", ["classifier.weight", "bert.pooler.dense.bias", "bert.embeddings.word_embeddings.weight"]
)
def test_a_number_that_is_none_is_refused_wherever_it_stands(
    number: float, place: str, tmp_path: Path, convert: Convert
) -> None:
    saved("BertForSequenceClassification", tmp_path / "source")
    tensors = load_file(tmp_path / "source" / "model.safetensors")
    tensors[place].view(-1)[-1] = number  # of the embeddings, a row that no text of the check has
    save_file(tensors, tmp_path / "source" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="NaN or infin"):
        convert(tmp_path / "source", "native")


def test_models_are_compared_with_their_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        saved("BertForSequenceClassification", tmp_path / name)
    assert command(["convert", "check", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    tensors = load_file(tmp_path / "b" / "model.safetensors")
    tensors["classifier.weight"] *= -3
    save_file(tensors, tmp_path / "b" / "model.safetensors", {"format": "pt"})
    assert command(["convert", "check", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "the head classification_heads.classifier" in capsys.readouterr().err


def changed(folder: Path, **config: Any) -> None:
    """Write other settings into a folder's `config.json`."""
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stated | config))


def test_a_head_that_one_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Or outputs under other names."""
    for name in ("a", "names", "encoder"):
        saved("BertForTokenClassification", tmp_path / name)
    tensors = load_file(tmp_path / "encoder" / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}
    save_file(kept, tmp_path / "encoder" / "model.safetensors", {"format": "pt"})
    changed(tmp_path / "names", id2label={"0": "O", "1": "B", "2": "I"})
    changed(tmp_path / "a", id2label={"0": "O", "1": "I", "2": "B"})
    for other, named in (("encoder", "not in both"), ("names", "names of the classifier")):
        assert command(["convert", "check", str(tmp_path / "a"), str(tmp_path / other)]) == 2
        assert named in capsys.readouterr().err


def test_only_one_with_a_masked_lm_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved("BertForMaskedLM", tmp_path / "a")
    saved("BertForMaskedLM", tmp_path / "b")
    tensors = load_file(tmp_path / "b" / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("cls.")}
    save_file(kept, tmp_path / "b" / "model.safetensors", {"format": "pt"})
    changed(tmp_path / "b", architectures=["BertModel"])
    assert command(["convert", "check", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "only the first has a masked-LM head" in capsys.readouterr().err


def test_a_classifier_with_another_name_is_compared(omegaconf_golden: Path, convert: Convert) -> None:
    """fairseq's `sentence_classification_head` is `classifier` there."""
    hf_folder = convert(omegaconf_golden, "hf")
    argv = ["convert", "check", str(omegaconf_golden), str(hf_folder)]
    assert command(argv) == 0
    tensors = load_file(hf_folder / "model.safetensors")
    tensors["classifier.out_proj.weight"] *= -3
    save_file(tensors, hf_folder / "model.safetensors", {"format": "pt"})
    assert command(argv) == 2


@pytest.mark.parametrize(
    ("name", "stated", "named"),
    [
        ("BertForTokenClassification", {"id2label": {"0": "a", "1": "b"}}, "names 2 labels"),
        ("BertForTokenClassification", {"id2label": {"0": "a", "1": "b", "3": "c"}}, "does not number"),
        ("BertForTokenClassification", {"id2label": {"0": "a", "1": "b", "2": ["c"]}}, "does not number"),
        ("BertForSequenceClassification", {"problem_type": "several"}, "problem_type"),
        ("ModernBertForSequenceClassification", {"classifier_pooling": "last"}, "classifier_pooling"),
    ],
)
def test_what_a_head_is_not_is_refused(name: str, stated: dict[str, Any], named: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    changed(tmp_path, **stated)
    with pytest.raises(CheckpointError, match=named):
        load_model(tmp_path)


def test_fairseqs_padding_of_labels_names_no_output(omegaconf_golden: Path, convert: Convert) -> None:
    """A label dictionary is padded to a multiple of 8 by symbols; transformers' class must load with the labels alone."""
    rows = len(next(t for n, t in load_model(omegaconf_golden).extra_tensors.items() if n.endswith("out_proj.bias")))
    names = [f"class {i}" for i in range(rows)]
    (omegaconf_golden / "label").mkdir(exist_ok=True)
    lines = [*(f"{name} 10" for name in names), *(f"madeupword{i:04} 0" for i in range(3))]
    (omegaconf_golden / "label" / "dict.txt").write_text("\n".join(lines) + "\n")
    folder = convert(omegaconf_golden, "hf")
    loaded, info = transformers.RobertaForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert loaded.config.id2label == dict(enumerate(names))
    assert loaded.config.label2id == {name: i for i, name in enumerate(names)}
    assert loaded.config.architectures == ["RobertaForSequenceClassification"]
    assert loaded.config.problem_type == ("regression" if rows == 1 else "single_label_classification")
    (omegaconf_golden / "label" / "dict.txt").write_text("\n".join([*lines, "more 1"]) + "\n")
    with pytest.raises(MismatchError, match=f"names {rows + 1} labels"):
        load_model(omegaconf_golden)


def test_labels_written_otherwise_are_found(tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("BertForSequenceClassification", tmp_path / "source")
    changed(tmp_path / "source", id2label={"0": "no", "1": "yes", "2": "maybe"})
    write = hf.write

    def wrong(parts: SourceCheckpoint, *others: Any) -> Any:
        facts = {**parts.facts, "id2label": {"0": "yes", "1": "no", "2": "maybe"}}
        return write(replace(parts, facts=facts), *others)

    monkeypatch.setattr(hf, "FORMAT", written_by(hf.FORMAT, wrong))
    with pytest.raises(ConversionError, match="names of the classifier's labels"):
        convert(tmp_path / "source", "hf", "bad")


def test_the_pooling_of_modernberts_classifier_goes_along(tmp_path: Path, convert: Convert) -> None:
    model = saved("ModernBertForSequenceClassification", tmp_path / "source")
    stated = json.loads((tmp_path / "source" / "config.json").read_text()) | {"classifier_pooling": "mean"}
    (tmp_path / "source" / "config.json").write_text(json.dumps(stated))
    back = convert(convert(tmp_path / "source", "native"), "hf", "back")
    ids = torch.randint(5, 89, (2, 20))
    with torch.inference_mode():
        expected, found = (type(model).from_pretrained(f).eval()(ids).logits for f in (tmp_path / "source", back))
        assert torch.equal(expected, found)
        assert not torch.allclose(expected, model(ids).logits)


def test_fairseqs_heads_are_computed_by_transformers(
    omegaconf_golden: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = json.loads((convert(omegaconf_golden, "hf", "good") / "conversion.json").read_text())
    ((name, value),) = good["max_difference_heads"].items()
    assert name.startswith("classification_heads.")
    assert value <= 1e-5
    write = hf.write

    def wrong(parts: SourceCheckpoint, *others: Any) -> Any:
        return write(
            replace(
                parts, extra_tensors={k: v * (-3 if "out_proj" in k else 1) for k, v in parts.extra_tensors.items()}
            ),
            *others,
        )

    monkeypatch.setattr(hf, "FORMAT", written_by(hf.FORMAT, wrong))
    with pytest.raises(ConversionError, match="the head classification_heads"):
        convert(omegaconf_golden, "hf", "bad")


def test_what_computes_nothing_is_written_as_it_was(
    hf_folder: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The positions' unused rows, which no output depends on."""
    write = hf.write

    def wrong(parts: SourceCheckpoint, *others: Any) -> Any:
        return write(
            replace(parts, extra_tensors={name: tensor * -3 for name, tensor in parts.extra_tensors.items()}), *others
        )

    monkeypatch.setattr(hf, "FORMAT", written_by(hf.FORMAT, wrong))
    with pytest.raises(
        ConversionError, match=r"the tensor front\.position_embeddings\.weight is not written as it was"
    ):
        convert(hf_folder, "hf", "bad")
