"""Learn byte-level BPE: RoBERTa's kind of vocabulary, in files for Hugging Face and fairseq."""

from pathlib import Path

import numpy as np

from biomlm.tokenizer.config import TrainConfig
from biomlm.tokenizer.formats import bytelevel, fairseq
from biomlm.tokenizer.learning.count import Counts
from biomlm.tokenizer.learning.merges import CHUNK, Words, border, symbol_type
from biomlm.tokenizer.learning.spill import scratch
from biomlm.tokenizer.learning.vocabulary import LearntVocabulary, learn_merges


def learn(counts: Counts, config: TrainConfig) -> LearntVocabulary:
    """Learn a vocabulary: specials, pieces by falling frequency (ties in order of learning), `<mask>`."""
    characters = bytelevel.alphabet()
    dtype = symbol_type(config.vocab_size)
    symbol_of = np.argsort(np.argsort(characters)).astype(dtype)  # byte → rank of its character
    symbol_of[ord("\n")] = border(dtype)  # words hold no line break
    symbols = scratch(Path(config.out), len(counts.text), dtype)
    for start in range(0, len(symbols), CHUNK):
        symbols[start : start + CHUNK] = symbol_of[counts.text[start : start + CHUNK]]
    words = Words(symbols, counts.times, counts.sizes, 256)
    learnt = learn_merges(words, len(bytelevel.SPECIALS) + 1, config)
    pieces = sorted(characters)
    for left, right in learnt.merges:
        pieces.append(pieces[left] + pieces[right])
    merges = [(pieces[left], pieces[right]) for left, right in learnt.merges]

    times = learnt.counts.tolist()
    order = sorted(range(len(pieces)), key=lambda i: -times[i])
    by_id = [*bytelevel.SPECIALS, *(pieces[i] for i in order), bytelevel.MASK]
    vocab = {piece: i for i, piece in enumerate(by_id)}
    by_frequency = [0] * len(bytelevel.SPECIALS) + [times[i] for i in order] + [0]
    files = bytelevel.files(vocab, merges) | fairseq.files(by_id, merges, by_frequency)
    return LearntVocabulary(bytelevel.hugging_face(vocab, merges), bytelevel.settings(config.model_max_length), files)
