"""Whether the files of a tokenizer folder say the same: each states pieces, merges or casing, and any of them may be edited alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer as HuggingFace

from biomlm.core.errors import DataError
from biomlm.tokenizer.formats import bert, bytelevel, fairseq
from biomlm.tokenizer.formats.fairseq import REMEDY


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
    if (folder / "vocab.json").exists():
        _same(folder, "vocab.json", fairseq.read_vocab(folder / "vocab.json"), "tokenizer.json", vocab)
    if (folder / "vocab.txt").exists():
        _same(folder, "vocab.txt", bert.read_vocab(folder / "vocab.txt"), "tokenizer.json", vocab)
    if (folder / "merges.txt").exists():
        merges = [tuple(merge) for merge in orjson.loads(hf.to_str())["model"].get("merges", [])]
        stated = fairseq.read_merges(folder / "merges.txt")
        check_merges(folder, vocab, stated)
        _same(folder, "merges.txt", dict(enumerate(stated)), "tokenizer.json", dict(enumerate(merges)))
    if all((folder / name).exists() for name in ("dict.txt", "encoder.json")):
        encoder = fairseq.read_vocab(folder / "encoder.json")
        _same(
            folder,
            "dict.txt with encoder.json",
            fairseq.model_vocab(folder / "dict.txt", encoder),
            "tokenizer.json",
            vocab,
        )
    _check_casing(folder, hf, settings)


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


def _check_casing(folder: Path, hf: HuggingFace, settings: Mapping[str, Any]) -> None:
    normalizer = orjson.loads(hf.to_str())["normalizer"] or {}
    stated = settings.get("do_lower_case")
    if normalizer.get("type") == "BertNormalizer" and stated is not None and stated != normalizer["lowercase"]:
        problem = (
            f"tokenizer_config.json says do_lower_case {stated}, tokenizer.json lowercase {normalizer['lowercase']}"
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
