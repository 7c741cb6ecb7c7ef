"""Masking by token, word and n-gram: the stated rates, whole units, the limits, and nothing but hashes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomlm.core import rng
from biomlm.core.errors import ConfigError
from biomlm.pretrain.data.masking import choose, mask_epoch, ngram_rate, rate_at, wanted
from biomlm.pretrain.objectives.config import MlmConfig
from biomlm.tokenizer.upos import UPOS

WORDS = 30  # in each sequence of `text`


def text(sequences: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Places, word starts, lengths and the number of each token's word, for sequences of words of 1 to 4 tokens."""
    random = np.random.default_rng(seed)
    places, starts, lengths, words, at = [], [], [], [], 0
    for n in range(sequences):
        sizes = random.integers(1, 5, WORDS)
        body = int(sizes.sum())
        places += [-1, *range(at, at + body), -1]
        starts += [True, *(i == 0 for size in sizes for i in range(size)), True]
        words += [-1, *np.repeat(np.arange(WORDS) + n * WORDS, sizes), -1]
        lengths.append(body + 2)
        at += body
    return np.array(places), np.array(starts), np.array(lengths), np.array(words)


@pytest.mark.parametrize("unit", ["token", "word", "ngram"])
@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_the_share_of_tokens_is_the_stated_one(unit: str, rate: float) -> None:
    places, starts, lengths, _ = text(2000)
    config = MlmConfig(mask_rate=rate, unit=unit)  # type: ignore[arg-type]
    chosen = choose(config, places, starts, lengths, key=rng.key(3), rate=rate)
    units = len(places) if unit == "token" else 2000 * WORDS / 2  # words and n-grams are drawn together
    sigma = np.sqrt(rate * (1 - rate) / units)
    assert abs(len(chosen) / (places >= 0).sum() - rate) < 4 * sigma
    assert (places[chosen] >= 0).all()


@pytest.mark.parametrize("unit", ["word", "ngram"])
def test_words_are_chosen_whole(unit: str) -> None:
    places, starts, lengths, words = text(50)
    chosen = np.zeros(len(places), bool)
    chosen[choose(MlmConfig(mask_rate=0.3, unit=unit), places, starts, lengths, key=7, rate=0.3)] = True  # type: ignore[arg-type]
    for word in range(words.max() + 1):
        assert len(set(chosen[words == word])) == 1


def test_ngrams_have_the_stated_lengths() -> None:
    """At a low rate runs of chosen words are single n-grams: 1, 2 and 3 words as 6 : 3 : 2."""
    places, starts, lengths, words = text(20_000)
    covered = np.zeros(words.max() + 1, bool)
    covered[words[choose(MlmConfig(mask_rate=0.002, unit="ngram"), places, starts, lengths, key=7, rate=0.002)]] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[0], covered.astype(int), [0]])))
    runs = edges[1::2] - edges[::2]
    shares = np.bincount(runs, minlength=4)[1:4] / len(runs)
    assert np.abs(shares - np.array([6, 3, 2]) / 11).max() < 0.05


def test_ngrams_do_not_cross_sequences() -> None:
    """What covers the end of a sequence says nothing about the beginning of the next one; both are covered as often as the rest."""
    places, starts, lengths, words = text(20_000)
    covered = np.zeros(words.max() + 1, bool)
    covered[words[choose(MlmConfig(mask_rate=0.3, unit="ngram"), places, starts, lengths, key=7, rate=0.3)]] = True
    by_sequence = covered.reshape(-1, WORDS)
    assert np.abs(by_sequence.mean(0) - 0.3).max() < 4 * np.sqrt(0.3 * 0.7 / 20_000)
    assert abs(np.corrcoef(by_sequence[:-1, -1], by_sequence[1:, 0])[0, 1]) < 4 / np.sqrt(20_000)
    assert np.corrcoef(by_sequence[:, 0], by_sequence[:, 1])[0, 1] > 0.3, "inside they go together"


@pytest.mark.parametrize("unit", ["token", "word", "ngram"])
@pytest.mark.parametrize("marked", [True, False], ids=["wordpiece", "byte-level"])
def test_every_kind_of_place_is_masked_at_the_rate_in_every_pass(unit: str, marked: bool) -> None:
    """First words of documents and sequences, with or without a mark of their own, those behind a separator, and pieces of a cut word."""
    sequences, passes, rate = 40, 300, 0.15
    body, sizes = 0, np.tile([2, 1, 3, 1], 3)
    places, starts, kinds = [], [], []
    for _ in range(sequences):
        begins = [i == 0 for size in sizes for i in range(size)]
        begins[0] = marked  # byte-level BPE: no blank stands in front of a document's first word
        ranks = [
            min(n, 3) for n, size in enumerate(sizes) for _ in range(size)
        ]  # 0, 1, 2 or any other word of a stretch
        cut = [False, *begins[2:]]  # a sequence that goes on with a word of another one
        places += [-1, *range(body, body + 21), -1, *range(body + 21, body + 41), -1]
        starts += [True, *begins, True, *cut, True]
        kinds += [-1, *ranks, -1, *(4 + rank for rank in ranks[1:]), -1]
        body += 41
    place_t, start_t, kind_t = np.array(places), np.array(starts), np.array(kinds)
    lengths = np.full(sequences, 44)
    config = MlmConfig(mask_rate=rate, unit=unit)  # type: ignore[arg-type]
    for seed in range(2):
        chosen = np.zeros((passes, len(place_t)), bool)
        for number in range(passes):
            draws = np.where(place_t < 0, place_t, place_t + number * body)
            chosen[number, choose(config, draws, start_t, lengths, key=rng.key(seed, "mask"), rate=rate)] = True
        for kind in range(8):
            here = chosen[:, kind_t == kind]
            words = sequences * (1 if kind % 4 < 3 else 3)  # the least number of independent draws in a pass
            assert abs(here.mean() - rate) < 4.5 * np.sqrt(rate * (1 - rate) / (passes * words)), (kind, seed)
            one = chosen[:, np.flatnonzero(kind_t == kind)[0]]
            assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 4.5 / np.sqrt(passes), "passes are independent"
    assert not chosen[:, place_t < 0].any()


@given(st.floats(0.01, 0.9))
def test_ngram_rate_solves_its_equation(rate: float) -> None:
    p = ngram_rate(rate)
    left_out = (1 - p) * (1 - p * 5 / 11) * (1 - p * 2 / 11)
    assert abs(1 - left_out - rate) < 1e-9


def test_at_most_so_many_predictions() -> None:
    places, starts, lengths, _ = text(200)
    free = choose(MlmConfig(mask_rate=0.3), places, starts, lengths, key=7, rate=0.3)
    held = choose(MlmConfig(mask_rate=0.3, max_predictions=10), places, starts, lengths, key=7, rate=0.3)
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    before, after = (np.bincount(sequence[c], minlength=len(lengths)) for c in (free, held))
    assert (after == np.minimum(before, 10)).all()
    assert set(held) <= set(free)


def test_static_masks_come_round_again() -> None:
    assert [mask_epoch(MlmConfig(static_masks=3), e) for e in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert [mask_epoch(MlmConfig(), e) for e in range(3)] == [0, 1, 2]


def test_masks_do_not_depend_on_the_batch() -> None:
    places, starts, lengths, _ = text(20)
    for unit in ("token", "word", "ngram"):
        config = MlmConfig(mask_rate=0.3, unit=unit)  # type: ignore[arg-type]
        whole = set(places[choose(config, places, starts, lengths, key=7, rate=0.3)])
        half = int(lengths[:10].sum())
        first = set(places[choose(config, places[:half], starts[:half], lengths[:10], key=7, rate=0.3)])
        assert first == {p for p in whole if p <= places[:half].max()}


@pytest.mark.parametrize(
    ("way", "halfway", "nearly_over"), [("linear", 0.225, 0.165), ("cosine", 0.225, 0.15367), ("step", 0.15, 0.15)]
)
def test_the_rate_falls_over_the_run(way: str, halfway: float, nearly_over: float) -> None:
    falling = MlmConfig(mask_rate=0.3, final_mask_rate=0.15, mask_schedule=way)  # type: ignore[arg-type]
    rates = [rate_at(falling, done) for done in (0, 0.5, 0.9, 1)]
    assert rates == pytest.approx([0.3, halfway, nearly_over, 0.15], abs=1e-5)
    places, starts, lengths, _ = text(200)
    early, late = (set(choose(falling, places, starts, lengths, key=7, rate=rate)) for rate in (rates[0], rates[-1]))
    assert late < early, "a lower rate masks fewer of the same tokens"


def test_a_step_comes_where_it_is_told_and_no_schedule_is_a_constant_rate() -> None:
    late = MlmConfig(mask_rate=0.3, final_mask_rate=0.15, mask_schedule="step", step_at=0.9)
    assert [rate_at(late, done) for done in (0, 0.899, 0.9, 1)] == [0.3, 0.3, 0.15, 0.15]
    assert rate_at(MlmConfig(mask_rate=0.4), 0.7) == 0.4


def test_parts_of_speech_are_chosen_whole_and_alone() -> None:
    """EMBO's bio-lm: every token of the class, and no other."""
    assert [UPOS[i - 1] for i in wanted(MlmConfig(pos=["SMALL"]))] == ["ADP", "CCONJ", "DET", "PRON", "SCONJ"]
    assert [UPOS[i - 1] for i in wanted(MlmConfig(pos=["VERB", "SMALL", "DET"]))][-2:] == ["SCONJ", "VERB"]
    places, starts, lengths, _ = text(200)
    tags = np.random.default_rng(0).integers(0, 18, len(places))
    may = np.isin(tags, wanted(MlmConfig(pos=["SMALL"])))
    config = MlmConfig(pos=["SMALL"], mask_rate=1, mask_share=1, random_share=0)
    chosen = choose(config, places, starts, lengths, key=7, rate=1.0, may_t=may)
    assert np.array_equal(chosen, np.flatnonzero(may & (places >= 0)))
    half = choose(config, places, starts, lengths, key=7, rate=0.5, may_t=may)
    assert abs(len(half) / len(chosen) - 0.5) < 4 * np.sqrt(0.25 / len(chosen))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mask_rate": 1.0}, "mask_rate"),
        ({"final_mask_rate": 0.0}, "final_mask_rate"),
        ({"mask_schedule": "cosine"}, "without mlm.final_mask_rate"),
        ({"final_mask_rate": 0.1, "mask_schedule": "step", "step_at": 1.0}, "step_at"),
        ({"pos": ["DETERMINER"]}, "there is no part of speech DETERMINER"),
        ({"pos": ["DET"], "unit": "word"}, "single tokens"),
    ],
)
def test_what_cannot_be_masked_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MlmConfig(**wrong)  # type: ignore[arg-type]
