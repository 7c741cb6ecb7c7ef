"""The tokenizers' check has a side of its own: a source that we misread is refused, though what is written is what we read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from biomlm.convert.load import read_source
from biomlm.core.errors import ConversionError
from biomlm.tokenizer.formats import fairseq, folder, stated

Convert = Callable[..., Path]
PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"eéabÉEptinhd",
    "##t",
    "##h",
    "##e",
    "the",
    "état",
    "患者",
    "患",
]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A BERT with nothing but `vocab.txt` and its settings."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(PIECES), **sizes, intermediate_size=32, max_position_embeddings=34)
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    (tmp_path / "bert" / "tokenizer_config.json").write_text('{"do_lower_case": true, "strip_accents": false}')
    return tmp_path / "bert"


def swapped(vocab: dict[str, int]) -> dict[str, int]:
    """The same pieces, two of them with each other's ids."""
    first, second = sorted(vocab, key=vocab.__getitem__)[10:12]
    return {**vocab, first: vocab[second], second: vocab[first]}


@pytest.mark.parametrize("to", ["hf", "fairseq", "native"])
@pytest.mark.parametrize("bpe", ["gpt2", "hf_byte_bpe"])
def test_a_dictionary_that_we_misread_is_found(
    bpe: str, to: str, one_golden: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bpe == "hf_byte_bpe":
        (one_golden / "encoder.json").rename(one_golden / "vocab.json")
        (one_golden / "vocab.bpe").rename(one_golden / "merges.txt")
    assert convert(one_golden, to, "good")
    read = fairseq.model_vocab
    monkeypatch.setattr(fairseq, "model_vocab", lambda *rest: swapped(read(*rest)))
    with pytest.raises(ConversionError, match="the tokenizers differ on"):
        convert(one_golden, to, "bad")


def test_settings_of_a_hugging_face_folder_that_we_misread_are_found(
    bert: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert convert(bert, "native", "good")
    read = stated.wordpiece
    monkeypatch.setattr(stated, "wordpiece", lambda *rest: {**read(*rest), "lowercase": False})
    with pytest.raises(ConversionError, match="the tokenizers differ on"):
        convert(bert, "native", "bad")


def edited(file: Path) -> None:
    """As an editor on another system leaves it."""
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))


@pytest.mark.parametrize("names", [("dict.txt", "encoder.json", "vocab.bpe"), ("dict.txt", "vocab.json", "merges.txt")])
def test_fairseqs_files_with_a_mark_and_crlf(names: tuple[str, ...], one_golden: Path, convert: Convert) -> None:
    for old, new in zip(("dict.txt", "encoder.json", "vocab.bpe"), names, strict=True):
        (one_golden / old).rename(one_golden / new)
    plain = folder.load(convert(one_golden, "hf", "plain"))
    for name in names:
        edited(one_golden / name)
    for to in ("hf", "fairseq"):
        again = convert(one_golden, to, f"edited-{to}")
        assert not any(b"\r" in path.read_bytes()[:1000] for path in again.glob("*.txt"))
        assert folder.load(convert(again, "hf", f"back-{to}")).pieces == plain.pieces


def test_hugging_faces_files_with_a_mark_and_crlf(bert: Path, convert: Convert, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "edited")
    for name in ("vocab.txt", "tokenizer_config.json", "config.json"):
        edited(tmp_path / "edited" / name)
    texts = ["The état PATIENT", "患者 ab"]
    plain, other = (
        AutoTokenizer.from_pretrained(convert(f, "hf", f"{f.name}-hf")) for f in (bert, tmp_path / "edited")
    )
    assert plain(texts)["input_ids"] == other(texts)["input_ids"]
    (tmp_path / "whole").mkdir()
    whole = convert(bert, "hf", "once")
    edited(whole / "tokenizer.json")
    edited(whole / "vocab.txt")
    assert AutoTokenizer.from_pretrained(convert(whole, "hf", "twice"))(texts)["input_ids"] == plain(texts)["input_ids"]


def test_the_sources_rules_do_not_see_what_else_lies_there(bert: Path) -> None:
    """transformers is given the tokenizer's files, and of `config.json` the kind of model alone."""
    stranger = json.loads((bert / "config.json").read_text()) | {"tokenizer_class": "org/own.Tokenizer"}
    (bert / "config.json").write_text(json.dumps(stranger))
    source = read_source(bert)
    assert source.token_rule
    assert source.token_rule(["the état"]) == folder.load(source.tokenizer_dir or bert).encode_batch(["the état"])
