"""What a conversion is checked on: a hundred texts (Unicode, `<mask>`, nothing at all, the longest sequence), and a thousand sentences on
which tokenizers must agree.

Every token goes through every weight of the layers, and every row of the vocabulary has a say in every logit, so many tokens find no more
faults there than few: all texts but the longest are short, and are batched by length. What depends on places has the longest sequence
(positions, attention far and near), and the batch in which the empty text is padded to the longest of the others.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from biomlm.core import rng
from biomlm.model.config import EncoderConfig
from biomlm.tokenizer.formats.folder import SpecialIds, Tokenizer

OPENINGS = 79
MASKED = 12
ODD = (
    "",
    " ",
    "a",
    "β-agonist ≥ 5 µg·kg⁻¹",
    "患者は発熱",
    "Боль в груди",
    "e\u0301 \u00e9 ﬁ \u00a0x\u200by",
    "💊 👩🏽\u200d⚕️",
)
MOST_STRETCH = 1.5  # the longest of a batch against its shortest
WITHOUT_TOKENIZER = SpecialIds(bos=0, pad=1, eos=2, unk=3, mask=3)


@cache
def sentences() -> tuple[str, ...]:
    """Read the one thousand real sentences shipped with the project (CC0)."""
    return tuple(yaml.safe_load(Path(__file__).with_name("sentences.yaml").read_text(encoding="utf-8")))


def texts() -> list[str]:
    """Give 99 texts: the shortest of the sentences' first words, odd ones, and three words each with the middle one masked."""
    openings = sorted({sentence.split(" ")[0] for sentence in sentences()}, key=lambda word: (len(word), word))
    masked = (sentence.split(" ") for sentence in sentences()[:MASKED])
    return [*openings[:OPENINGS], *ODD, *(f"{words[0]} <mask> {words[2]}" for words in masked)]


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode a text in which `<mask>` stands for the mask token, with `<s>` and `</s>` around them.

    As in RoBERTa's tokenizer, the mask takes the blank before it along.
    """
    pieces = text.split("<mask>")
    ids = [tokenizer.ids.bos, *tokenizer.encode(pieces[0].rstrip() if len(pieces) > 1 else pieces[0])]
    for i, piece in enumerate(pieces[1:], start=2):
        ids += [tokenizer.ids.mask, *tokenizer.encode(piece.rstrip() if i < len(pieces) else piece)]
    return [*ids, tokenizer.ids.eos]


def batches(config: EncoderConfig, tokenizer: Tokenizer | None) -> list[list[list[int]]]:
    """Make one hundred sequences of token ids; those of like lengths in batches, the shortest with the longer ones, the longest by itself.

    Args:
        config: Longest sequence and vocabulary.
        tokenizer: The model's; without one, ids are drawn evenly from the vocabulary.
    """
    if tokenizer is None:
        lengths = rng.integers(rng.key(0, "lengths"), np.arange(len(texts())), 2, 12)
        sequences = [_random(config, int(n), i) for i, n in enumerate(lengths)]
    else:
        sequences = [encode(tokenizer, text) for text in texts()]
    sequences = [cut(sequence, config.max_positions) for sequence in sequences]
    longest = _random(config, config.max_positions, len(sequences))
    shortest, *others = sorted(sequences, key=len)
    groups = _grouped(others)
    return [*groups[:-1], [*groups[-1], shortest], [longest]]


def cut(sequence: list[int], most: int) -> list[int]:
    """Keep the first `most` ids; the last one stays the end of the sequence."""
    return sequence if len(sequence) <= most else [*sequence[: most - 1], sequence[-1]]


def _random(config: EncoderConfig, length: int, number: int) -> list[int]:
    """Draw `<s>`, random ids that are no special ones, `</s>`; none of them padding, from which RoBERTa counts its positions."""
    low = min(WITHOUT_TOKENIZER.unk, config.vocab_size - 1)
    ids = rng.integers(rng.key(0, "ids", number), np.arange(max(0, length - 2)), low, config.vocab_size)
    drawn, pad = [WITHOUT_TOKENIZER.bos, *ids.tolist(), WITHOUT_TOKENIZER.eos][:length], config.pad_token_id
    return [i if i != pad else (pad + 1) % config.vocab_size for i in drawn]


def _grouped(sequences: Sequence[list[int]]) -> list[list[list[int]]]:
    """Group sequences of rising lengths, so that a batch padded to its longest has little padding."""
    groups: list[list[list[int]]] = [[]]
    for sequence in sequences:
        if groups[-1] and len(sequence) > MOST_STRETCH * len(groups[-1][0]):
            groups.append([])
        groups[-1].append(sequence)
    return groups
