"""Learn WordPiece, BERT's kind of vocabulary, or take a `vocab.txt` that others learnt.

Merges are learnt by frequency, as in `tokenizers`' trainer: Google's own was never released.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from biolm.tokenizer import bert, folder
from biolm.tokenizer.config import TrainConfig
from biolm.tokenizer.count import Counts
from biolm.tokenizer.made import Made, learn_merges
from biolm.tokenizer.merges import BORDER, Words

ALPHABET = 1000  # characters at most, as in `tokenizers`; a word with any other becomes [UNK]


def made(vocab: Mapping[str, int], lowercase: bool, model_max_length: int) -> Made:
    """A vocabulary from its pieces and their ids."""
    settings = bert.settings(lowercase, model_max_length)
    return Made(bert.hugging_face(vocab, lowercase), settings, bert.files(vocab))


def make(counts: Counts, config: TrainConfig) -> Made:
    """Learn a vocabulary: specials, the alphabet, the alphabet inside words, then merges."""
    items = list(counts.items())
    seen: Counter[str] = Counter()
    for word, times in items:
        for character in word:
            seen[character] += times
    kept = {character for character, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:ALPHABET]}
    items = [(word, times) for word, times in items if kept.issuperset(word)]
    inside = sorted({character for word, _ in items for character in word[1:]})
    base = [*sorted(kept), *(bert.INSIDE + character for character in inside)]
    symbol_of = {symbol: i for i, symbol in enumerate(base)}
    symbols = [BORDER]
    for word, _ in items:
        symbols += [symbol_of[word[0]], *(symbol_of[bert.INSIDE + character] for character in word[1:]), BORDER]
    words = Words(np.array(symbols, dtype=np.int32), np.array([times for _, times in items], dtype=np.int64), len(base))
    for left, right in learn_merges(words, len(bert.SPECIALS), config).merges:
        base.append(base[left] + base[right].removeprefix(bert.INSIDE))
    return made(
        {piece: i for i, piece in enumerate([*bert.SPECIALS, *base])}, config.lowercase, config.model_max_length
    )


def from_vocab(
    vocab_txt: str | Path, out: str | Path, *, lowercase: bool, model_max_length: int = 512
) -> folder.Tokenizer:
    """Write a tokenizer folder from a bare `vocab.txt`, whose casing only its maker knows.

    Raises:
        DataError: A piece stands in it twice, or a special token is missing.
    """
    new = made(bert.read_vocab(Path(vocab_txt)), lowercase, model_max_length)
    folder.write(out, new.hf, new.settings, new.files)
    return folder.load(out)
