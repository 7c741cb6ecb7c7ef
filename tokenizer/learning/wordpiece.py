"""Learn WordPiece, BERT's kind of vocabulary.

Merges are learnt by frequency, as in `tokenizers`' trainer: Google's own was never released.
"""

from array import array
from collections import Counter
from collections.abc import Mapping

import numpy as np

from biomlm.tokenizer.config import TrainConfig
from biomlm.tokenizer.formats import bert
from biomlm.tokenizer.learning.count import Counts
from biomlm.tokenizer.learning.merges import Words, border, symbol_type
from biomlm.tokenizer.learning.vocabulary import LearntVocabulary, learn_merges

ALPHABET = 1000  # characters at most, as in `tokenizers`; a word with any other becomes [UNK]


def from_pieces(vocab: Mapping[str, int], lowercase: bool, model_max_length: int) -> LearntVocabulary:
    """Make a vocabulary of pieces and their ids."""
    settings = bert.settings(lowercase, model_max_length)
    return LearntVocabulary(bert.hugging_face(vocab, lowercase), settings, bert.files(vocab))


def learn(counts: Counts, config: TrainConfig) -> LearntVocabulary:
    """Learn a vocabulary: specials, the alphabet, the alphabet inside words, then merges."""
    frequency: Counter[str] = Counter()
    for word, times in counts.items():
        for character in word:
            frequency[character] += times
    kept = {character for character, _ in sorted(frequency.items(), key=lambda item: (-item[1], item[0]))[:ALPHABET]}
    inside = sorted({c for word, _ in counts.items() if kept.issuperset(word) for c in word[1:]})
    base = [*sorted(kept), *(bert.INSIDE + character for character in inside)]
    symbol_of = {symbol: i for i, symbol in enumerate(base)}
    words = _words(counts, symbol_of, config.vocab_size)
    for left, right in learn_merges(words, len(bert.SPECIALS), config).merges:
        base.append(base[left] + base[right].removeprefix(bert.INSIDE))
    return from_pieces(
        {piece: i for i, piece in enumerate([*bert.SPECIALS, *base])}, config.lowercase, config.model_max_length
    )


def _words(counts: Counts, symbol_of: Mapping[str, int], vocab_size: int) -> Words:
    """Spell the words in symbols, leaving out those with a character that has none."""
    dtype = symbol_type(vocab_size)
    code, mark = np.dtype(dtype).char, border(dtype)
    symbols, times, sizes = array(code, [mark]), array("q"), array("q")
    for word, count in counts.items():
        spelled = [symbol_of.get(word[0], mark), *(symbol_of.get(bert.INSIDE + c, mark) for c in word[1:]), mark]
        if spelled.index(mark) < len(word):
            continue
        symbols.extend(spelled)
        if times and times[-1] == count:
            sizes[-1] += len(spelled)
        else:
            times.append(count)
            sizes.append(len(spelled))
    return Words(np.frombuffer(symbols, dtype), np.array(times), np.array(sizes), len(symbol_of))
