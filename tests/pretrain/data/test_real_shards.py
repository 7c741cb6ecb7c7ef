"""Masks and pairs on shards of real abstracts and notes: the stated rates, whole words, n-grams, parts of speech, labels and links."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from biomlm.model.kernels.cross_entropy import NO_LABEL
from biomlm.pretrain.data.batches import Batch, Batches
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.data.masking import LONGEST_NGRAM, ngram_rate, wanted
from biomlm.pretrain.objectives.config import PAIRINGS, MlmConfig

NEXT, RANDOM, LINKED = 0, 1, 2  # labels of NSP and DRP
SWAPPED = 1  # label of SOP
TOKENS = 60_000  # looked at in each case


@dataclass(frozen=True)
class Seen:
    """Some micro-batches laid end to end.

    Args:
        shown: Ids as the model sees them.
        original: Ids before masking.
        chosen: Whether a token is predicted.
        special: Whether it is `<s>`, `</s>` or `<pad>`.
        first: Whether it begins a sequence.
    """

    shown: np.ndarray
    original: np.ndarray
    chosen: np.ndarray
    special: np.ndarray
    first: np.ndarray
    batches: list[Batch]


Look = Callable[..., Seen]


@pytest.fixture(scope="module")
def look(bundled: dict[str, Path]) -> Look:
    def look(
        mlm: MlmConfig, kind: str = "wordpiece", form: str = "document", pair: str | None = None, epoch: int = 0
    ) -> Seen:
        sizes = BatchConfig(tokens=4096, max_length=128, form=form)  # type: ignore[arg-type]
        made = Batches(
            shards := Shards([bundled[kind]], "train"),
            mlm,
            sizes,
            5,
            pairing=PAIRINGS.get(pair or ""),
            segments=kind == "wordpiece",
        )
        batches: list[Batch] = []
        while sum(len(batch.packed.input_ids_t) for batch in batches) < TOKENS:
            batch = made.micro_batch(epoch, len(batches))
            assert batch is not None
            batches.append(batch)
        shown = np.concatenate([batch.packed.input_ids_t.numpy() for batch in batches])
        original, chosen = shown.copy(), np.zeros(len(shown), bool)
        starts = np.cumsum([0] + [len(batch.packed.input_ids_t) for batch in batches])
        for start, batch in zip(starts, batches, strict=False):
            original[start + batch.positions_m.numpy()] = batch.labels_m.numpy()
            chosen[start + batch.positions_m.numpy()] = True
        ids = shards.ids
        lengths = np.concatenate([batch.packed.lengths for batch in batches])
        first = np.zeros(len(shown), bool)
        first[np.cumsum(lengths) - lengths] = True
        return Seen(shown, original, chosen, np.isin(original, [ids.bos, ids.eos, ids.pad]), first, batches)

    return look


def near(found: float, expected: float, n: float) -> bool:
    """Whether a share of n draws lies within four standard deviations."""
    return abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / n)


def words(seen: Seen, bundled: dict[str, Path], kind: str) -> np.ndarray:
    """Number of each token's word; special tokens are words of their own."""
    starts = Shards([bundled[kind]], "train").tokenizer.is_word_start
    after_special = np.concatenate([[False], seen.special[:-1]])
    return np.cumsum(starts[seen.original] | seen.special | after_special) - 1


@pytest.mark.parametrize(("form", "kind"), [("document", "wordpiece"), ("full", "wordpiece"), ("full", "bpe")])
@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_tokens(look: Look, bundled: dict[str, Path], form: str, kind: str, rate: float) -> None:
    seen = look(MlmConfig(mask_rate=rate), kind=kind, form=form)
    real = ~seen.special
    assert not (seen.chosen & seen.special).any()
    assert near(seen.chosen[real].mean(), rate, real.sum())
    shown, original = seen.shown[seen.chosen], seen.original[seen.chosen]
    mask = shown == np.bincount(shown).argmax()
    assert near(mask.mean(), 0.8, len(mask))
    assert near((shown == original).mean(), 0.1 + 0.1 / 1000, len(mask))
    ids = Shards([bundled[kind]], "train").ids
    assert not np.isin(shown[shown != original], [ids.bos, ids.pad, ids.eos, ids.unk]).any()
    random = shown[(shown != original) & ~mask]
    assert {random.min() <= 6, random.max() >= 990} == {True}, "from the whole vocabulary"
    assert (seen.shown[~seen.chosen] == seen.original[~seen.chosen]).all()


@pytest.mark.parametrize("way", ["linear", "cosine", "step"])
def test_a_falling_rate(bundled: dict[str, Path], way: str) -> None:
    """From 40% in the first step to 10% in the last one, and a quarter, a half and three quarters of the way."""
    shards, sizes = Shards([bundled["bpe"]], "train"), BatchConfig(tokens=4096, max_length=128)
    mlm = MlmConfig(mask_rate=0.4, final_mask_rate=0.1, mask_schedule=way)  # type: ignore[arg-type]
    steps = Batches(shards, mlm, sizes, 5).per_epoch
    made = Batches(shards, mlm, sizes, 5, steps=steps)
    for index in (0, steps // 4, steps // 2, 3 * steps // 4, steps - 1):
        done = index / steps
        gone = {"linear": done, "cosine": np.sin(np.pi * done / 2) ** 2, "step": float(2 * done >= 1)}[way]
        batch = made.micro_batch(0, index)
        assert batch is not None
        real = len(batch.packed.input_ids_t) - 2 * len(batch.packed.lengths)
        assert near(len(batch.labels_m) / real, 0.4 - 0.3 * gone, real)


def test_all_masked(look: Look) -> None:
    """NeoBERT's: whatever is predicted is shown as <mask>."""
    seen = look(MlmConfig(mask_rate=0.2, mask_share=1, random_share=0))
    assert len(set(seen.shown[seen.chosen])) == 1


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_whole_words(look: Look, bundled: dict[str, Path], kind: str) -> None:
    seen = look(MlmConfig(unit="word"), kind=kind)
    word = words(seen, bundled, kind)
    size, chosen = np.bincount(word), np.bincount(word, weights=seen.chosen)
    assert np.isin(chosen, [0]).sum() + (chosen == size).sum() == len(size), "all of a word or nothing of it"
    real = ~seen.special[np.concatenate([[0], np.flatnonzero(np.diff(word)) + 1])]
    assert near((chosen > 0)[real].mean(), 0.15, real.sum())
    assert (size[chosen > 0] > 1).any()


def test_ngrams(look: Look, bundled: dict[str, Path]) -> None:
    """Runs of masked words: where no two n-grams touch, they are 1, 2 and 3 words long as 6 : 3 : 2 (weights 1/n)."""
    seen = look(MlmConfig(unit="ngram", mask_rate=0.02))
    word = words(seen, bundled, "wordpiece")
    covered = np.bincount(word, weights=seen.chosen) > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], covered.astype(int), [0]])))
    shares = np.bincount(edges[1::2] - edges[::2], minlength=9)[1 : LONGEST_NGRAM + 1] / len(edges[::2])
    assert np.abs(shares - np.array([6, 3, 2]) / 11).max() < 0.08
    seen = look(MlmConfig(unit="ngram", mask_rate=0.15))
    word = words(seen, bundled, "wordpiece")
    heads = np.concatenate([[0], np.flatnonzero(np.diff(word)) + 1])
    covered = (np.bincount(word, weights=seen.chosen) > 0)[~seen.special[heads]]
    assert abs(covered.mean() - 0.15) < 0.01
    assert ngram_rate(0.15) < 0.15


def test_most_predictions_and_static_masks(look: Look) -> None:
    config = MlmConfig(max_predictions=10, static_masks=2)
    epochs = [look(config, epoch=epoch) for epoch in range(4)]
    for seen in epochs:
        sequence = np.cumsum(seen.first) - 1
        assert np.bincount(sequence, weights=seen.chosen).max() == 10
    masked = [{tuple(part) for part in np.split(seen.shown, np.flatnonzero(seen.first)[1:])} for seen in epochs]
    # Epochs 0 and 2 have the same masks in another order: of 500 sequences of 3,400 some are looked at in both.
    assert len(masked[0] & masked[2]) > 20
    assert len(masked[0] & masked[1]) < 5


@pytest.mark.parametrize("pos", [["DET"], ["VERB"], ["NOUN"], ["SMALL"]])
def test_parts_of_speech(look: Look, bundled: dict[str, Path], pos: list[str]) -> None:
    config = MlmConfig(pos=pos, mask_rate=1, mask_share=1, random_share=0)
    seen = look(config)
    shards = Shards([bundled["wordpiece"]], "train")
    assert shards.pos is not None
    assert not (seen.chosen & seen.special).any()
    assert len(set(seen.shown[seen.chosen])) == 1
    for batch in seen.batches:
        assert batch.places_m is not None
        assert np.isin(shards.pos[batch.places_m], wanted(config)).all()
    tagged = np.isin(shards.pos[np.arange(len(shards.tokens))], wanted(config))
    real = shards.tokens[np.arange(len(shards.tokens))] != shards.ids.eos
    assert abs(seen.chosen.sum() / (~seen.special).sum() - tagged.sum() / real.sum()) < 0.03, "all of the class"


@pytest.mark.parametrize("pair", ["nsp", "sop", "drp"])
def test_pairs(bundled: dict[str, Path], pair: str) -> None:
    shards = Shards([bundled["wordpiece"]], "train")
    # Long and never short: a chunk of one sentence, which nothing in its document can follow, is rare then.
    sizes = BatchConfig(tokens=4096, max_length=512, form="pairs", short_seq_prob=0)
    made = Batches(shards, MlmConfig(), sizes, 5, pairing=PAIRINGS[pair], segments=True)
    sequences = made.epochs(0).sequences
    labels = sequences.labels
    offsets = np.concatenate([[0], np.cumsum(shards.sizes, dtype=np.int64)])[shards.doc_index]
    document = np.searchsorted(offsets, sequences.start, side="right") - 1
    last = np.searchsorted(offsets, sequences.stop - 1, side="right") - 1
    there = sequences.stop[:, 1] > sequences.start[:, 1]
    assert (document[:, 0] == last[:, 0]).all()
    assert (document[there, 1] == last[there, 1]).all(), "no segment crosses a document"
    same = document[:, 0] == document[:, 1]
    if pair == "sop":
        assert (there == (labels != NO_LABEL)).all()
        assert same[there].all()
        assert near((labels[there] == SWAPPED).mean(), 0.5, there.sum())
        return
    assert there.all()
    assert np.array_equal(same, labels == NEXT)
    # Where the three (two) all exist, they have equal shares: A does not reach its document's end, and somebody is linked.
    known = [set(d["links"]) for d in shards.documents()]
    number = {d["id"]: i for i, d in enumerate(shards.documents())}
    edges = {(i, number[link]) for i, links in enumerate(known) for link in links if link in number}
    edges |= {(b, a) for a, b in edges}
    ends = np.concatenate([[0], np.cumsum(shards.sizes, dtype=np.int64)])[shards.doc_index[1:] - 1] - 1
    open_ended = sequences.stop[:, 0] < ends[document[:, 0]]
    linked = np.isin(document[:, 0], np.array(sorted({a for a, _ in edges})))
    if pair == "drp":
        assert all((a, b) in edges for a, b in document[labels == LINKED])
        free = open_ended & linked
        shares = np.bincount(labels[free], minlength=3) / free.sum()
        assert np.abs(shares - 1 / 3).max() < 4 * np.sqrt(2 / 9 / free.sum())
        assert not (labels[~linked] == LINKED).any()
    else:
        assert near((labels[open_ended] == RANDOM).mean(), 0.5, open_ended.sum())
