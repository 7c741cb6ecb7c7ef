"""Pairs lose no token, fit, are labelled at the stated rates, and link documents that cite each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomlm.core import rng
from biomlm.model.kernels.cross_entropy import NO_LABEL
from biomlm.pretrain.data.segment_pairs import Links, Pairs, longest_unit, read_links
from biomlm.pretrain.data.sequences import SentenceSpans, Sequences, split_long
from biomlm.pretrain.objectives.config import PAIRINGS

DOCUMENTS = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=9), min_size=3, max_size=9).filter(
    lambda documents: sum(any(document) for document in documents) > 1
)
NEXT, RANDOM, LINKED = 0, 1, 2  # labels of NSP and DRP, as BERT and Hugging Face number them
SWAPPED = 1  # label of SOP, as ALBERT numbers it
KINDS = st.sampled_from(["nsp", "sop", "drp", "sso"])


def shard(documents: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    sizes = [n + 1 for document in documents for n in [*document, 0]]
    index = np.cumsum([0] + [len(document) + 1 for document in documents])
    return np.array(sizes, np.int32), index.astype(np.int64)


def ring(count: int, usable: np.ndarray | None = None) -> Links:
    """Each document cites the next."""
    documents = [{"id": str(n), "links": [str((n + 1) % count)]} for n in range(count)]
    return read_links(documents, np.ones(count, bool) if usable is None else usable)


def units_of(documents: list[list[int]], max_length: int, specials: int = 3) -> SentenceSpans:
    return split_long(*shard(documents), longest_unit(max_length, specials))


def formed(
    units: SentenceSpans, kind: str, max_length: int, key: int, short: float = 0.1, specials: int = 3
) -> Sequences:
    links = ring(len(units.bounds) - 1, np.diff(units.bounds) > 0) if kind == "drp" else None
    return Pairs(units, PAIRINGS[kind], max_length, specials, short_seq_prob=short, links=links)(key)


def documents_of(units: SentenceSpans, places: np.ndarray) -> np.ndarray:
    return units.document[np.searchsorted(units.start, places, side="right") - 1]


@settings(max_examples=60)
@given(DOCUMENTS, st.integers(8, 40), KINDS, st.integers(0, 9), st.sampled_from([0.0, 0.5]), st.sampled_from([3, 4]))
def test_every_token_is_read_and_every_pair_fits(
    documents: list[list[int]], max_length: int, kind: str, seed: int, short: float, specials: int
) -> None:
    units = units_of(documents, max_length, specials)
    pairs = formed(units, kind, max_length, rng.key(seed), short, specials)
    sizes = shard(documents)[0]
    is_eos = np.zeros(sizes.sum(), bool)
    is_eos[np.cumsum(sizes) - 1] = True
    own, other = np.zeros(len(is_eos), int), np.zeros(len(is_eos), int)
    for (a, b), (a_stop, b_stop), tokens, label in zip(
        pairs.start, pairs.stop, pairs.tokens, pairs.labels, strict=True
    ):
        inside = [(~is_eos[a:a_stop]).sum(), (~is_eos[b:b_stop]).sum()]
        assert inside[0] > 0
        assert tokens == sum(inside) + (specials if inside[1] else 2) <= max_length
        assert (inside[1] == 0) == (label == NO_LABEL)
        origin = dict(enumerate(PAIRINGS[kind].origins.values())).get(label)
        elsewhere = origin in ("random", "linked")
        own[a:a_stop] += 1
        (other if elsewhere else own)[b:b_stop] += 1
        if inside[1]:
            same = documents_of(units, a) == documents_of(units, b)
            assert same != elsewhere
            assert documents_of(units, b) == documents_of(units, b_stop - 1)
            if not elsewhere:
                assert (a > b) == (origin == "before")
    assert (own[~is_eos] == 1).all()


def many(seed: int, count: int = 4000) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(3, 30, random.integers(1, 20)).tolist() for _ in range(count)]


def test_half_of_the_parted_chunks_go_on() -> None:
    """Devlin et al.: 50% of the time B is the actual next sentence; a chunk of one sentence never has one."""
    units = units_of(many(0), 128)
    pairs = formed(units, "nsp", 128, key=1, short=0)
    ends = np.isin(
        pairs.stop[:, 0], units.stop[units.bounds[1:] - 1]
    )  # A reaches its document's end: nothing could follow
    goes_on = pairs.labels[~ends] == NEXT
    assert abs(goes_on.mean() - 0.5) < 4 * np.sqrt(0.25 / len(goes_on))
    assert (pairs.labels[ends] == RANDOM).all()


def test_half_of_the_orders_are_swapped() -> None:
    pairs = formed(units_of(many(1), 128), "sop", 128, key=2)
    labelled = pairs.labels[pairs.labels != NO_LABEL]
    assert abs((labelled == SWAPPED).mean() - 0.5) < 4 * np.sqrt(0.25 / len(labelled))
    assert 0.75 * len(pairs) < len(labelled) < len(pairs)


def test_structures_come_in_thirds() -> None:
    """Wang et al. 2019, section 2.2: the next sentence, the previous one and one of another document, 1/3 of the time each."""
    units = units_of(many(1), 128)
    pairs = formed(units, "sso", 128, key=2, short=0)
    same = documents_of(units, pairs.start[:, 0]) == documents_of(units, pairs.start[:, 1])
    behind = pairs.start[:, 1] > pairs.start[:, 0]
    assert np.array_equal(pairs.labels, np.where(same, np.where(behind, 0, 1), 2))
    ends = np.isin(pairs.stop[:, 0], units.stop[units.bounds[1:] - 1]) & (pairs.labels == 2)
    share = np.bincount(pairs.labels[~ends], minlength=3) / (~ends).sum()
    assert np.abs(share - 1 / 3).max() < 4 * np.sqrt(0.25 / (~ends).sum())


def test_relations_come_in_thirds() -> None:
    units = units_of(many(2), 128)
    pairs = formed(units, "drp", 128, key=3, short=0)
    ends = np.isin(pairs.stop[:, 0], units.stop[units.bounds[1:] - 1])
    for chosen, shares in ((~ends, [1 / 3, 1 / 3, 1 / 3]), (ends, [0, 1 / 2, 1 / 2])):
        found = np.bincount(pairs.labels[chosen], minlength=3) / chosen.sum()
        assert np.abs(found - shares).max() < 4 * np.sqrt(0.25 / chosen.sum())
    linked = pairs.labels == LINKED
    a, b = (documents_of(units, pairs.start[linked, side]) for side in (0, 1))
    assert set((b - a) % 4000) == {1, 3999}, "of the ring's neighbours, citing and cited"
    random = pairs.labels == RANDOM
    a, b = (documents_of(units, pairs.start[random, side]) for side in (0, 1))
    assert (a != b).all()
    assert np.bincount(b * 10 // 4000, minlength=10).min() > 0.08 * random.sum(), "from all over the split"


def test_random_documents_are_of_the_same_source() -> None:
    """Else the style of another source gives it away, and a source that is left out is read all the same."""
    units = units_of(many(6, 300), 128)
    source = np.arange(300) % 3
    source[:5] = np.arange(3, 8)  # each the only one of its source: any other will do
    pairs = Pairs(units, PAIRINGS["nsp"], 128, 3, short_seq_prob=0.1, links=None, source_of=source)(key=9)
    a, b = (documents_of(units, pairs.start[pairs.labels == RANDOM, side]) for side in (0, 1))
    assert (a != b).all()
    assert (source[a] == source[b])[a >= 5].all()
    assert (a < 5).any()
    assert len(set(b)) > 200, "from all over their sources"


def test_linked_documents_are_drawn_by_their_in_degree() -> None:
    """LinkBERT, section 3.2: the probability is inversely proportional to the in-degree, so that hubs do not flood the batches."""
    documents = [{"id": "a", "links": ["hub", "b", "a", "elsewhere"]}, {"id": "b", "links": ["hub"]}]
    documents += [{"id": "c", "links": ["hub", "empty"]}, {"id": "hub", "links": []}, {"id": "empty", "links": []}]
    links = read_links(documents, np.array([True, True, True, True, False]))
    drawn = links.draw(np.zeros(30_000, np.int64), rng.uniform(7, np.arange(30_000)))
    shares = np.bincount(drawn, minlength=5) / 30_000
    assert np.abs(shares - [0, 3 / 4, 0, 1 / 4, 0]).max() < 0.01  # b is cited once, the hub three times
    assert np.diff(links.bounds).tolist() == [2, 2, 1, 3, 0]
    assert set(links.draw(np.full(1000, 2), rng.uniform(8, np.arange(1000)))) == {3}


def test_short_targets_make_short_pairs() -> None:
    units = units_of(many(3), 128)
    all_short, none = (formed(units, "nsp", 128, key=4, short=p).tokens for p in (1.0, 0.0))
    some = formed(units, "nsp", 128, key=4, short=0.1).tokens
    assert none.max() <= 128
    assert all_short.mean() < 0.7 * none.mean()
    assert none.mean() * 0.85 < some.mean() < none.mean()


def test_epochs_differ_and_keys_repeat() -> None:
    units = units_of(many(4, 50), 64)
    one, again, other = (formed(units, "nsp", 64, key) for key in (rng.key(1, 0), rng.key(1, 0), rng.key(1, 1)))
    assert np.array_equal(one.start, again.start)
    assert not np.array_equal(one.start[:20], other.start[:20])


@pytest.mark.parametrize("kind", ["nsp", "drp"])
def test_labels_do_not_leak_through_lengths(kind: str) -> None:
    """A and B of all kinds have about the same lengths, or the task could be solved without reading."""
    units = units_of(many(5, 12_000), 256)
    pairs = formed(units, kind, 256, key=5, short=0)
    ends = np.isin(pairs.stop[:, 0], units.stop[units.bounds[1:] - 1])
    a_means = [
        float((pairs.stop - pairs.start)[(pairs.labels == k) & ~ends, 0].mean()) for k in range(2 + (kind == "drp"))
    ]
    assert max(a_means) < 1.03 * min(a_means)
