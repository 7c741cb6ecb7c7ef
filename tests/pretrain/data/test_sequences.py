"""Sequences and micro-batches lose no token, respect their limits and depend on nothing but lengths and the seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomlm.pretrain.data.collate import NOWHERE, Row, collate
from biomlm.pretrain.data.dataset import Stretches
from biomlm.pretrain.data.order import micro_batches_per_epoch, plan_epoch
from biomlm.pretrain.data.sequences import SPECIALS, Reading, Sequences, pack_sentences, split_long
from biomlm.tokenizer.formats.folder import SpecialIds

DOCUMENTS = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), min_size=1, max_size=8)
IDS = SpecialIds(bos=0, pad=1, eos=2, unk=3, mask=4)


def shard(documents: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Sizes with </s> and document index; each document ends with an item of </s> alone."""
    sizes = [n + 1 for document in documents for n in [*document, 0]]
    index = np.cumsum([0] + [len(document) + 1 for document in documents])
    return np.array(sizes, np.int32), index.astype(np.int64)


def tokens(documents: list[list[int]]) -> np.ndarray:
    """The token row of `shard`; a token's id is 5 + the number of its document."""
    ids = [[*[5 + d] * n, IDS.eos] for d, document in enumerate(documents) for n in [*document, 0]]
    return np.concatenate(ids).astype(np.uint16)


def formed(documents: list[list[int]], max_length: int, *, across: bool = False) -> Sequences:
    return pack_sentences(split_long(*shard(documents), max_length - SPECIALS), max_length, across=across)


def once(sequences: Sequences) -> Reading:
    return Reading(sequences, np.zeros(len(sequences), np.int64))


def read(documents: list[list[int]], sequences: Sequences, segments: bool = True) -> Row:
    bounds = enumerate(zip(sequences.start.ravel(), sequences.stop.ravel(), strict=True))
    places = [(place, number) for number, (start, stop) in bounds for place in range(start, stop)]
    places_r, stretch_r = np.array(places, np.int64).reshape(-1, 2).T
    ids_r = tokens(documents).astype(np.int64)[places_r]
    return collate(Stretches(ids_r, places_r, stretch_r, None), sequences, IDS, segments=segments)


@given(DOCUMENTS, st.integers(8, 24), st.booleans())
def test_every_token_is_in_exactly_one_sequence(documents: list[list[int]], max_length: int, across: bool) -> None:
    row = read(documents, sequences := formed(documents, max_length, across=across))
    raw = tokens(documents)
    assert np.array_equal(row.places_t[row.places_t != NOWHERE], np.flatnonzero(raw != IDS.eos))
    assert (row.ids_t[row.places_t != NOWHERE] == raw[raw != IDS.eos]).all()
    assert np.array_equal(row.lengths, sequences.tokens)
    assert (row.lengths <= max_length).all()
    for ids in np.split(row.ids_t, np.cumsum(row.lengths)[:-1]) if len(row.lengths) else []:
        assert ids[0] == IDS.bos
        assert ids[-1] == IDS.eos
        inner, ends = ids[1:-1], np.flatnonzero(ids[1:-1] == IDS.eos)
        if not across:
            assert len(set(inner)) == 1
        # An end stands inside where a document with tokens follows another, and nowhere else.
        assert np.array_equal(np.flatnonzero(np.diff(inner[inner != IDS.eos])) + 1 + np.arange(len(ends)), ends)


def test_sentences_stay_whole_where_they_fit() -> None:
    sequences = formed([[4, 5, 3, 20, 2]], max_length=12)  # 10 tokens a sequence
    assert (sequences.tokens - SPECIALS).tolist() == [9, 3, 10, 10, 2]


def test_full_sentences_go_on_into_the_next_document() -> None:
    """RoBERTa's FULL-SENTENCES: an extra separator between documents, none where a sequence begins or ends."""
    documents = [[4, 3], [2], [0], [5, 1]]
    row = read(documents, formed(documents, max_length=12, across=True))
    assert row.ids_t.tolist() == [0, 5, 5, 5, 5, 5, 5, 5, 2, 6, 6, 2, 0, 8, 8, 8, 8, 8, 8, 2]


def test_full_sentences_fill_sequences_better_than_documents() -> None:
    documents = [[n % 23 + 1, n % 7 + 3] for n in range(500)]
    apart, across = (formed(documents, 64, across=flag) for flag in (False, True))
    assert across.tokens.mean() > 0.85 * 64 > 0.5 * 64 > apart.tokens.mean()


@given(DOCUMENTS, st.integers(30, 90), st.integers(1, 3), st.integers(0, 3))
def test_an_epoch_uses_every_sequence_once(
    documents: list[list[int]], tokens: int, accumulation: int, epoch: int
) -> None:
    sequences = formed(documents, max_length=16)
    if not len(sequences):
        return
    count = micro_batches_per_epoch(sequences, tokens, accumulation)
    assert count % accumulation == 0
    plan = plan_epoch(once(sequences), count, seed=3, number=epoch)
    parts = [plan.micro_batch(i).sequences for i in range(count)]
    assert sorted(np.concatenate([part.start[:, 0] for part in parts])) == sorted(sequences.start[:, 0])
    assert max(int(part.tokens.sum()) for part in parts) <= tokens + 16


def test_order_depends_on_seed_and_epoch_only() -> None:
    sequences = formed([[9]] * 200, max_length=16)
    cases = [(1, 0), (1, 0), (1, 1), (2, 0)]
    plans = [plan_epoch(once(sequences), 10, seed, epoch).order.tolist() for seed, epoch in cases]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2] != plans[3] != plans[0]


@pytest.mark.parametrize("tokens", [64, 128, 1000])
def test_micro_batches_are_nearly_equal(tokens: int) -> None:
    sequences = formed([[n % 14 + 1] for n in range(2000)], max_length=16)
    count = micro_batches_per_epoch(sequences, tokens, 1)
    plan = plan_epoch(once(sequences), count, seed=0, number=0)
    held = [int(plan.micro_batch(i).sequences.tokens.sum()) for i in range(count)]
    assert max(held) - min(held) <= 2 * 16
    assert np.mean(held) <= tokens
