"""Folders without `tokenizer.json`: what their other files state is applied as transformers applies it, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from biomlm.core.errors import DataError
from biomlm.tokenizer.formats import folder, vocab_txt

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"eéabÉE患者",
    "##tat",
    "##t",
    "etat",
    "État",
    "患者",
    "Etat",
    "##b",
]
TEXTS = ["État etat ETAT", "患者 a", "ab é Éa", "a[NEW]b [NEW] a", "a Zz  b"]
Make = Callable[..., Path]


@pytest.fixture
def bert(tmp_path: Path) -> Make:
    def make(files: dict[str, Any] | None = None, **settings: Any) -> Path:
        place = tmp_path / "bert"
        place.mkdir(exist_ok=True)
        (place / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
        (place / "config.json").write_text('{"model_type": "bert"}')
        content = {"tokenizer_config.json": {"do_lower_case": False, **settings}, **(files or {})}
        for name, value in content.items():
            (place / name).write_text(json.dumps(value))
        return place

    return make


@pytest.fixture
def roberta(tmp_path: Path) -> Make:
    def make(files: dict[str, Any] | None = None, merges: str = "#version: 0.2\na b\nab c\n", **settings: Any) -> Path:
        place = tmp_path / "roberta"
        place.mkdir(exist_ok=True)
        pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "abc", "<mask>"]
        (place / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
        (place / "merges.txt").write_text(merges)
        (place / "config.json").write_text('{"model_type": "roberta"}')
        for name, value in {"tokenizer_config.json": settings, **(files or {})}.items():
            (place / name).write_text(json.dumps(value))
        return place

    return make


def assert_as_transformers(place: Path, texts: list[str]) -> None:
    ours, theirs = folder.load(place), AutoTokenizer.from_pretrained(place, local_files_only=True)
    for text in texts:
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
    assert ours.vocab_size == len(theirs) - (
        "<|endoftext|>" in theirs.get_added_vocab()
    )  # which transformers adds to a GPT-2


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_lower_case": True},
        {"do_lower_case": True, "strip_accents": False},
        {"strip_accents": True},
        {"strip_accents": None, "never_split": None, "do_basic_tokenize": True},
        {"tokenize_chinese_chars": False},
        {"tokenizer_class": "DistilBertTokenizer"},
        {"tokenizer_class": "ElectraTokenizerFast"},
    ],
)
def test_cleaning_is_the_stated_one(settings: dict[str, Any], bert: Make) -> None:
    place = bert(**settings)
    assert_as_transformers(place, TEXTS)
    converted = vocab_txt.write_folder(
        place / "vocab.txt", place / "out", settings={"do_lower_case": False, **settings}
    )
    assert converted.encode_batch(TEXTS) == folder.load(place).encode_batch(TEXTS)


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens.json": {"[NEW]": len(PIECES), "Zz": len(PIECES) + 1}},
        {
            "tokenizer_config.json": {
                "do_lower_case": False,
                "added_tokens_decoder": {
                    str(len(PIECES)): {"content": "[NEW]", "rstrip": True, "lstrip": False, "normalized": False},
                },
            }
        },
    ],
)
def test_added_tokens_are_found(files: dict[str, Any], bert: Make) -> None:
    place = bert(files)
    assert_as_transformers(place, TEXTS)
    assert len(PIECES) in folder.load(place).encode("a[NEW]b")
    folder.copy(place, place.parent / "copy")
    assert folder.load(place.parent / "copy").encode_batch(TEXTS) == folder.load(place).encode_batch(TEXTS)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"never_split": ["Zz"]}, "never_split"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
        ({"tokenizer_class": "T5Tokenizer"}, "T5Tokenizer"),
        ({"auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}}, "auto_map"),
        ({"unk_token": "etat"}, "unk_token"),
        ({"strip_accents": "yes"}, "strip_accents"),
        ({"wordpieces_prefix": "@@"}, "wordpieces_prefix"),
    ],
)
def test_what_cannot_be_applied_is_refused(settings: dict[str, Any], named: str, bert: Make) -> None:
    place = bert(**settings)
    for read in (
        lambda: folder.load(place),
        lambda: vocab_txt.write_folder(
            place / "vocab.txt", place / "out", settings={"do_lower_case": False, **settings}
        ),
    ):
        with pytest.raises(DataError, match=named):
            read()


def test_an_added_token_with_another_id_is_refused(bert: Make) -> None:
    with pytest.raises(DataError, match="added_tokens"):
        folder.load(bert({"added_tokens.json": {"[NEW]": len(PIECES) + 3}}))


@pytest.mark.parametrize("settings", [{}, {"add_prefix_space": True}, {"tokenizer_class": "GPT2Tokenizer"}])
@pytest.mark.parametrize("merges", ["#version: 0.2\na b\nab c\n", "a b\nab c\n"])
def test_byte_level_folders(settings: dict[str, Any], merges: str, roberta: Make) -> None:
    assert_as_transformers(
        roberta({"added_tokens.json": {"zz": 263}}, merges, **settings), ["abc", " abc ab", "azzb zz"]
    )


@pytest.mark.parametrize(("key", "value"), [("do_lower_case", True), ("tokenizer_class", "DebertaTokenizer")])
def test_byte_level_folders_that_cannot_be_read(key: str, value: object, roberta: Make) -> None:
    with pytest.raises(DataError, match=key):
        folder.load(roberta(**{key: value}))


@pytest.mark.parametrize(
    ("key", "value"), [("strip_accents", True), ("tokenize_chinese_chars", False), ("do_lower_case", True)]
)
def test_settings_that_tokenizer_json_contradicts_are_refused(key: str, value: bool, bert: Make) -> None:
    place = bert(**{key: value})
    AutoTokenizer.from_pretrained(bert(), local_files_only=True).backend_tokenizer.save(str(place / "tokenizer.json"))
    assert folder.load(place)
    bert(**{key: value})
    with pytest.raises(DataError, match=key):
        folder.load(place)


def test_added_tokens_that_tokenizer_json_lacks_are_refused(bert: Make) -> None:
    place = bert()
    AutoTokenizer.from_pretrained(place, local_files_only=True).backend_tokenizer.save(str(place / "tokenizer.json"))
    (place / "added_tokens.json").write_text(json.dumps({"[NEW]": len(PIECES)}))
    with pytest.raises(DataError, match=r"added_tokens\.json"):
        folder.load(place)
