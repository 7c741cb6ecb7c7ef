"""What a conversion is checked on: about a hundred texts (real sentences, Unicode, `<mask>`, nothing at all, the longest sequence), and
a thousand sentences on which tokenizers must agree.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from biolm.core import rng
from biolm.model.config import EncoderConfig
from biolm.tokenizer.folder import SpecialIds, Tokenizer

SENTENCES = 80
MASKED = 12
ODD = (
    "",
    " ",
    "a",
    "β-Adrenoceptor agonists ≥ 5 µg·kg⁻¹, n = 1 024 (χ² test)",
    "患者は発熱と咳を訴えた。",
    "Больной жаловался на боль в груди",
    "e\u0301 versus \u00e9, ﬁ versus fi, \u00a0no-break\u200bspaces",
    "🩺 💊 👩🏽\u200d⚕️",
)
BATCH_TOKENS = 1024
WITHOUT_TOKENIZER = SpecialIds(bos=0, pad=1, eos=2, unk=3, mask=3)


@cache
def sentences() -> tuple[str, ...]:
    """One thousand real sentences, shipped with the project (CC0)."""
    return tuple(yaml.safe_load(Path(__file__).with_name("sentences.yaml").read_text(encoding="utf-8")))


def texts() -> list[str]:
    """One hundred texts: plain, odd, and with one word masked; short ones, since the last input is long enough for all."""
    short = sorted(sentences(), key=len)[: SENTENCES + MASKED]
    return [*short[:SENTENCES], *ODD, *map(_mask_middle, short[SENTENCES:])]


def _mask_middle(sentence: str) -> str:
    words = sentence.split(" ")
    words[len(words) // 2] = "<mask>"
    return " ".join(words)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text in which `<mask>` stands for the mask token, with `<s>` and `</s>` around them.

    As in RoBERTa's tokenizer, the mask takes the blank before it along.
    """
    pieces = text.split("<mask>")
    ids = [tokenizer.ids.bos, *tokenizer.encode(pieces[0].rstrip() if len(pieces) > 1 else pieces[0])]
    for i, piece in enumerate(pieces[1:], start=2):
        ids += [tokenizer.ids.mask, *tokenizer.encode(piece.rstrip() if i < len(pieces) else piece)]
    return [*ids, tokenizer.ids.eos]


def batches(config: EncoderConfig, tokenizer: Tokenizer | None) -> list[list[list[int]]]:
    """Sequences of token ids, in batches of mixed lengths; the last one is as long as the model allows.

    Args:
        config: Longest sequence and vocabulary.
        tokenizer: The model's; without one, ids are drawn evenly from the vocabulary.
    """
    if tokenizer is None:
        lengths = rng.integers(rng.key(0, "lengths"), np.arange(len(texts())), 2, 48)
        sequences = [_random(config, int(n), i) for i, n in enumerate(lengths)]
    else:
        sequences = [encode(tokenizer, text) for text in texts()]
    sequences = [cut(sequence, config.max_positions) for sequence in sequences]
    longest = _random(config, config.max_positions, len(sequences))
    return [*_grouped(sequences), [longest]]


def cut(sequence: list[int], most: int) -> list[int]:
    """The first `most` ids; the last one stays the end of the sequence."""
    return sequence if len(sequence) <= most else [*sequence[: most - 1], sequence[-1]]


def _random(config: EncoderConfig, length: int, number: int) -> list[int]:
    """`<s>`, random ids that are no special ones, `</s>`."""
    low = min(WITHOUT_TOKENIZER.unk, config.vocab_size - 1)
    ids = rng.integers(rng.key(0, "ids", number), np.arange(max(0, length - 2)), low, config.vocab_size)
    return [WITHOUT_TOKENIZER.bos, *ids.tolist(), WITHOUT_TOKENIZER.eos][:length]


def _grouped(sequences: Sequence[list[int]]) -> list[list[list[int]]]:
    """Consecutive sequences, so that a batch padded to its longest has at most `BATCH_TOKENS` places."""
    groups: list[list[list[int]]] = [[]]
    for sequence in sequences:
        longest = max(len(s) for s in [*groups[-1], sequence])
        if groups[-1] and longest * (len(groups[-1]) + 1) > BATCH_TOKENS:
            groups.append([])
        groups[-1].append(sequence)
    return groups
