"""Sequences and micro-batches lose no token, respect their limits and depend on nothing but lengths and the seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biolm.pretrain.sequences import SPECIALS, form_sequences, micro_batches_per_epoch, plan_epoch

DOCUMENTS = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), min_size=1, max_size=8)


def shard(documents: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Sizes with </s> and document index; each document ends with an item of </s> alone."""
    sizes = [n + 1 for document in documents for n in [*document, 0]]
    index = np.cumsum([0] + [len(document) + 1 for document in documents])
    return np.array(sizes, np.int32), index.astype(np.int64)


@given(DOCUMENTS, st.integers(8, 24))
def test_every_token_is_in_exactly_one_sequence(documents: list[list[int]], max_length: int) -> None:
    sizes, doc_index = shard(documents)
    sequences = form_sequences(sizes, doc_index, max_length)
    raw_end = np.cumsum(sizes)
    is_eos = np.zeros(raw_end[-1], bool)
    is_eos[raw_end - 1] = True
    seen = np.zeros(raw_end[-1], int)
    doc_of = np.repeat(np.arange(len(documents)), [sum(d) + len(d) + 1 for d in documents])
    for start, stop, length in zip(sequences.start, sequences.stop, sequences.length, strict=True):
        seen[start:stop] += 1
        assert length == (~is_eos[start:stop]).sum() <= max_length - SPECIALS
        assert doc_of[start] == doc_of[stop - 1]
    assert (seen[~is_eos] == 1).all()


def test_sentences_stay_whole_where_they_fit() -> None:
    sizes, doc_index = shard([[4, 5, 3, 20, 2]])
    sequences = form_sequences(sizes, doc_index, max_length=12)  # 10 tokens a sequence
    assert sequences.length.tolist() == [9, 3, 10, 10, 2]


@given(DOCUMENTS, st.integers(30, 90), st.integers(1, 3), st.integers(0, 3))
def test_an_epoch_uses_every_sequence_once(
    documents: list[list[int]], tokens: int, accumulation: int, epoch: int
) -> None:
    sequences = form_sequences(*shard(documents), max_length=16)
    if not len(sequences):
        return
    count = micro_batches_per_epoch(sequences, tokens, accumulation)
    assert count % accumulation == 0
    plan = plan_epoch(sequences, count, seed=3, epoch=epoch)
    parts = [plan.micro_batch(i) for i in range(count)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(sequences)))
    assert max(int(sequences.length[p].sum()) + SPECIALS * len(p) for p in parts) <= tokens + 16


def test_order_depends_on_seed_and_epoch_only() -> None:
    sequences = form_sequences(*shard([[9]] * 200), max_length=16)
    plans = [plan_epoch(sequences, 10, seed, epoch).order.tolist() for seed, epoch in [(1, 0), (1, 0), (1, 1), (2, 0)]]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2] != plans[3] != plans[0]


@pytest.mark.parametrize("tokens", [64, 128, 1000])
def test_micro_batches_are_nearly_equal(tokens: int) -> None:
    sequences = form_sequences(*shard([[n % 14 + 1] for n in range(2000)]), max_length=16)
    count = micro_batches_per_epoch(sequences, tokens, 1)
    plan = plan_epoch(sequences, count, seed=0, epoch=0)
    held = [int(sequences.length[p].sum()) + SPECIALS * len(p) for p in map(plan.micro_batch, range(count))]
    assert max(held) - min(held) <= 2 * 16
    assert np.mean(held) <= tokens
