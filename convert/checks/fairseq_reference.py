"""fairseq's own way from a text to the model's ids, for the check alone: it shares no code with the readers of `tokenizer.formats`.

Written after `fairseq/data/encoders/gpt2_bpe.py` (`vocab.bpe` loses its first line and what stands behind its last line break),
`encoders/hf_byte_bpe.py` (`merges.txt` may open with `#version`) and `data/dictionary.py` (a symbol's id is four plus its line). A
byte-order mark, which fairseq would read as a part of the first symbol, was put there by an editor, and is passed over here too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import regex  # type: ignore[import-untyped]

UNKNOWN = 3
RESERVED = ("<s>", "<pad>", "</s>", "<unk>")
WORDS = regex.compile(r"'(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


@dataclass(frozen=True)
class FairseqFiles:
    """A dictionary and a byte-level BPE.

    Args:
        dict_txt: The dictionary.
        numbers: `encoder.json`, or hf_byte_bpe's `vocab.json`: piece → the number that the dictionary has for it.
        merges: `vocab.bpe`, or hf_byte_bpe's `merges.txt`.
        is_gpt2: Whether the merges are read as gpt2_bpe does it, not as hf_byte_bpe.
    """

    dict_txt: Path
    numbers: Path
    merges: Path
    is_gpt2: bool

    def __str__(self) -> str:
        """Name the rules."""
        return "fairseq's rules"

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Give the ids of each text, without special tokens around them."""
        ids, numbers = _dictionary(_lines(self.dict_txt)), json.loads("\n".join(_lines(self.numbers)))
        lines = _lines(self.merges)
        merges = lines[1:-1] if self.is_gpt2 else [line for line in lines if line and not line.startswith("#version")]
        ranks = {(left, right): i for i, (left, right) in enumerate(line.split() for line in merges if line)}
        characters = _characters()

        @cache
        def word_ids(word: str) -> list[int]:
            pieces = _merged([characters[byte] for byte in word.encode()], ranks)
            return [ids.get(str(numbers[piece]), UNKNOWN) for piece in pieces]

        return [[i for word in WORDS.findall(text) for i in word_ids(word)] for text in texts]


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8-sig").split("\n")  # opened as text: any line end is one


def _dictionary(lines: Sequence[str]) -> dict[str, int]:
    symbols = [*RESERVED, *(line.removesuffix(" #fairseq:overwrite").rsplit(" ", 1)[0] for line in lines if line)]
    return {symbol: i for i, symbol in enumerate(symbols)}


def _characters() -> dict[int, str]:
    """Give each byte its character: a printable one of Latin-1 its own, the others the next ones from U+0100 on."""
    shown = {byte for byte in range(256) if chr(byte).isprintable() and byte not in (0x20, 0xA0, 0xAD)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def _merged(pieces: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Apply to a word's pieces the merge that was learnt first, everywhere, until none is left."""
    while len(pieces) > 1:
        best = min(pairwise(pieces), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        joined: list[str] = []
        i = 0
        while i < len(pieces):
            taken = tuple(pieces[i : i + 2]) == best
            joined.append("".join(best) if taken else pieces[i])
            i += 1 + taken
        pieces = joined
    return pieces
