"""Merges learnt from counts are those of Hugging Face's `tokenizers`, from the same words."""

from collections import Counter
from itertools import chain

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from biomlm.tokenizer.formats import bytelevel
from biomlm.tokenizer.learning import merges
from biomlm.tokenizer.learning.merges import LearntMerges, Words, border, learn, symbol_type

RANK = np.argsort(np.argsort(bytelevel.alphabet()))


def ours(texts: list[str], most: int, min_count: int) -> tuple[list[list[str]], dict[str, int]]:
    words = Counter(word for text in texts for word in bytelevel.split(text))
    learnt = learn_counts(words, most, min_count)
    pieces = sorted(bytelevel.alphabet())
    pairs = []
    for left, right in learnt.merges:
        pairs.append([pieces[left], pieces[right]])
        pieces.append(pieces[left] + pieces[right])
    return pairs, dict(zip(pieces, learnt.counts.tolist(), strict=True))


def learn_counts(words: Counter[str], most: int, min_count: int) -> LearntMerges:
    dtype = symbol_type(256 + most)
    by_count = words.most_common()
    rows = [[*(int(RANK[byte]) for byte in key.encode()), border(dtype)] for key, _ in by_count]
    symbols = np.array([border(dtype), *chain.from_iterable(rows)], dtype=dtype)
    times = np.array([n for _, n in by_count], dtype=np.int64)  # every word is a run of its own
    return learn(
        Words(symbols, times, np.array(list(map(len, rows)), dtype=np.int64), 256), most, min_count, lambda _: None
    )


def theirs(texts: list[str], most: int, min_count: int) -> tuple[list[list[str]], Counter[str]]:
    hf = Tokenizer(models.BPE())
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + most, min_frequency=min_count, initial_alphabet=alphabet, show_progress=False
    )
    hf.train_from_iterator(texts, trainer)
    pairs = orjson.loads(hf.to_str())["model"]["merges"]
    return pairs, Counter(piece for text in texts for piece in hf.encode(text).tokens)


def same(texts: list[str], most: int, min_count: int) -> None:
    pairs, counts = ours(texts, most, min_count)
    expected_pairs, expected_counts = theirs(texts, most, min_count)
    assert pairs == expected_pairs
    assert Counter({piece: n for piece, n in counts.items() if n}) == expected_counts


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text(alphabet="aab \u00e9", max_size=40), min_size=1, max_size=8), st.integers(1, 30), st.integers(1, 3)
)
def test_equal_on_text_full_of_runs_and_ties(texts: list[str], most: int, min_count: int) -> None:
    same(texts, most, min_count)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_equal_on_any_unicode(texts: list[str]) -> None:
    same(texts, 50, 1)


def test_equal_where_many_places_change_at_once(monkeypatch: pytest.MonkeyPatch, abstracts: list[str]) -> None:
    monkeypatch.setattr(merges, "CHUNK", 1000)  # first pairs come in many parts
    same(abstracts[:20], 500, 2)


@pytest.mark.parametrize(
    ("listed", "buckets", "texts", "most"), [(1, 1 << 18, 30, 700), (200, 1 << 18, 30, 700), (2, 4, 5, 100)]
)
def test_equal_in_many_stages_and_in_one(
    monkeypatch: pytest.MonkeyPatch, abstracts: list[str], listed: int, buckets: int, texts: int, most: int
) -> None:
    monkeypatch.setattr(merges, "LISTED", listed)
    monkeypatch.setattr(merges, "BUCKETS", buckets)  # of few, most thresholds find no pair at all
    monkeypatch.setattr(merges, "CHUNK", 997)  # symbols of several places lie across the borders
    same(abstracts[:texts], most, 2)


def test_32_bit_symbols(monkeypatch: pytest.MonkeyPatch, abstracts: list[str]) -> None:
    assert symbol_type((1 << 16) - 2) == np.uint16
    assert symbol_type((1 << 16) - 1) == np.uint32
    monkeypatch.setitem(globals(), "symbol_type", lambda _: np.dtype(np.uint32))
    same(abstracts[:20], 300, 2)


def test_equal_on_abstracts(abstracts: list[str]) -> None:
    same(abstracts, 2000, 2)


def test_counts_beyond_32_bits_do_not_overflow() -> None:
    learnt = learn_counts(Counter({" the": 5_000_000_000, " rare": 1}), 3, 2)
    assert learnt.counts[-1] == 5_000_000_000
    assert len(learnt.merges) == 3


def test_pairs_that_stand_equally_often_are_merged_at_once(
    monkeypatch: pytest.MonkeyPatch, abstracts: list[str]
) -> None:
    batches = []
    merge = merges._State.merge
    monkeypatch.setattr(
        merges._State, "merge", lambda self, batch, pairs: (batches.append(len(batch)), merge(self, batch, pairs))
    )
    same(abstracts[:20], 1500, 2)
    assert sum(batches) == 1500
    assert max(batches) > 10


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="abcdefg", min_size=1, max_size=7), min_size=1, max_size=12), st.integers(1, 60))
def test_equal_where_most_pairs_stand_equally_often(texts: list[str], most: int) -> None:
    same(texts, most, 1)


def test_learning_stops_when_no_pair_is_frequent_enough() -> None:
    learnt = learn_counts(Counter({" ab": 1, " abc": 1}), 100, 2)
    assert len(learnt.merges) == 2  # `ab` and ` ab`; ` abc` would stand there once
    assert learnt.counts[-1] == 2
