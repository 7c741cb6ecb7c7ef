"""Check that the files of a tokenizer folder agree: each states pieces, merges or casing, and any of them may be edited alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer as HuggingFace

from biomlm.core.errors import DataError
from biomlm.tokenizer.formats import bert, bytelevel, fairseq, stated
from biomlm.tokenizer.formats.fairseq import REMEDY

# Part of tokenizer.json → its type, and keys of tokenizer_config.json that say the same as one of its.
STATED_TWICE = {
    "normalizer": (
        "BertNormalizer",
        {
            "do_lower_case": "lowercase",
            "strip_accents": "strip_accents",
            "tokenize_chinese_chars": "handle_chinese_chars",
        },
    ),
    "pre_tokenizer": ("ByteLevel", {"add_prefix_space": "add_prefix_space"}),
}


def check(folder: Path, hf: HuggingFace, settings: Mapping[str, Any]) -> None:
    """Refuse a folder whose files disagree, naming both.

    Args:
        folder: The tokenizer folder.
        hf: Its `tokenizer.json`, or what stands for it.
        settings: Of its `tokenizer_config.json`.

    Raises:
        DataError: vocab.json, vocab.txt, merges.txt, the fairseq files or the settings say other than tokenizer.json.
    """
    vocab = hf.get_vocab(with_added_tokens=True)
    stated.check_added(folder, hf)
    added = {token.content: i for i, token in hf.get_added_tokens_decoder().items()}
    if (folder / "vocab.json").exists():
        _same(folder, "vocab.json", added | fairseq.read_vocab(folder / "vocab.json"), "tokenizer.json", vocab)
    if (folder / "vocab.txt").exists():
        _same(folder, "vocab.txt", added | bert.read_vocab(folder / "vocab.txt"), "tokenizer.json", vocab)
    if (folder / "merges.txt").exists():
        merges = [tuple(merge) for merge in orjson.loads(hf.to_str())["model"].get("merges", [])]
        listed = fairseq.read_merges(folder / "merges.txt")
        check_merges(folder, vocab, listed)
        _same(folder, "merges.txt", dict(enumerate(listed)), "tokenizer.json", dict(enumerate(merges)))
    if (folder / "vocab.bpe").exists():
        merges = [tuple(merge) for merge in orjson.loads(hf.to_str())["model"].get("merges", [])]
        listed = fairseq.read_bpe(folder / "vocab.bpe")
        _same(folder, "vocab.bpe", dict(enumerate(listed)), "tokenizer.json", dict(enumerate(merges)))
    if all((folder / name).exists() for name in ("dict.txt", "encoder.json")):
        encoder = fairseq.read_vocab(folder / "encoder.json")
        _same(
            folder,
            "dict.txt with encoder.json",
            fairseq.model_vocab(folder / "dict.txt", encoder),
            "tokenizer.json",
            vocab,
        )
    elif (folder / "dict.txt").exists():
        check_dictionary(folder / "dict.txt", hf)
    _check_settings(folder, hf, settings)


def check_dictionary(dict_txt: Path, hf: HuggingFace) -> None:
    """Refuse a fairseq dictionary whose order is not that of a tokenizer's ids: the model's ids are the dictionary's.

    Its symbols are pieces, or their numbers in order of learning.

    Raises:
        DataError: The two number the pieces otherwise.
    """
    vocab, merges = hf.get_vocab(with_added_tokens=True), orjson.loads(hf.to_str())["model"].get("merges", [])
    learnt = fairseq.numbering_of(sorted(vocab, key=vocab.__getitem__), [(left, right) for left, right in merges])
    if not fairseq.is_numbered_by(dict_txt, {}, vocab) and not fairseq.is_numbered_by(dict_txt, learnt, vocab):
        problem = "its order, which is that of the model's ids, is not the tokenizer's"
        remedy = (
            "Convert the checkpoint with `biomlm convert`, which applies it, or take the dictionary of this tokenizer."
        )
        raise DataError(problem, file=dict_txt, remedy=remedy)


def check_merges(folder: Path, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
    """Refuse merges of pieces that the vocabulary lacks.

    Raises:
        DataError: One needs such a piece.
    """
    for line, (left, right) in enumerate(merges, start=1):
        missing = [piece for piece in (left, right, left + right) if piece not in vocab]
        if missing:
            problem = f"merge {line} of merges.txt needs the piece {missing[0]!r}, which the vocabulary lacks"
            raise DataError(problem, file=folder, remedy=REMEDY)


def check_specials(file: Path, vocab: Mapping[str, int]) -> None:
    """Refuse a byte-level vocabulary without RoBERTa's special tokens.

    Raises:
        DataError: One is missing.
    """
    for name in (*bytelevel.SPECIALS, bytelevel.MASK):
        if name not in vocab:
            raise DataError(f"the vocabulary lacks the special token {name}", file=file, remedy=REMEDY)


def _check_settings(folder: Path, hf: HuggingFace, settings: Mapping[str, Any]) -> None:
    state = orjson.loads(hf.to_str())
    for part, (kind, keys) in STATED_TWICE.items():
        component = state[part] or {}
        for key, attribute in keys.items() if component.get("type") == kind else ():
            setting = settings.get(key)
            if setting is not None and setting != component[attribute]:
                problem = (
                    f"tokenizer_config.json says {key} {setting}, tokenizer.json {attribute} {component[attribute]}"
                )
                raise DataError(problem, file=folder, remedy=REMEDY)


def _same(folder: Path, a_name: str, a: Mapping[Any, Any], b_name: str, b: Mapping[Any, Any]) -> None:
    if a == b:
        return
    key = next(key for key in [*a, *b] if a.get(key) != b.get(key))
    what = f"merge {key + 1}" if isinstance(key, int) else f"piece {key!r}"
    sides = ((a_name, a), (b_name, b))
    values = " and ".join(f"{side[key]!r} in {name}" if key in side else f"not in {name}" for name, side in sides)
    problem = f"{a_name} ({len(a)} entries) and {b_name} ({len(b)}) disagree: {what} is {values}"
    raise DataError(problem, file=folder, remedy=REMEDY)
