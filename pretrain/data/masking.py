"""Which tokens are predicted, and what is shown in their place: hashes of (seed, epoch, place in the shard), without any state.

Whole words: Devlin et al.'s later BERT models. N-grams of words: Megatron-LM's BERT, as GatorTron was trained. Static masks with a
duplication factor, and a largest number of predictions: BERT's original data creation, as Bio_ClinicalBERT was trained. Parts of
speech: EMBO's bio-lm.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from biomlm.core import rng
from biomlm.core.errors import DataError
from biomlm.pretrain.data.collate import Row
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.objectives.config import POS_SETS, MlmConfig
from biomlm.tokenizer.formats.folder import SpecialIds
from biomlm.tokenizer.upos import ID

I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
N = TypeVar("N", int, I64)

LONGEST_NGRAM = 3
NGRAM_SHARES = np.array([1 / n for n in range(1, LONGEST_NGRAM + 1)]) / sum(1 / n for n in range(1, LONGEST_NGRAM + 1))


@dataclass(frozen=True)
class Masked:
    """A row of tokens with some of them hidden.

    Args:
        shown_t: The ids that the model sees.
        positions_m: Flat positions to predict, ascending.
        labels_m: The original ids there.
        places_m: Where in the shards the predicted tokens stand.
    """

    shown_t: I64
    positions_m: I64
    labels_m: I64
    places_m: I64


class Masker:
    """Hides tokens of a split's sequences.

    Args:
        config: Which tokens, how many and how.
        shards: The split.
        seed: Of the masks.

    Raises:
        DataError: Masks depend on parts of speech, and the shards have none.
    """

    def __init__(self, config: MlmConfig, shards: Shards, seed: int):
        self.config, self.key = config, rng.key(seed, "mask")
        self.tokenizer, self.mask_id, self.tokens = shards.tokenizer, shards.ids.mask, len(shards.tokens)
        self.wanted, self.pieces = wanted(config), ordinary(shards.ids, shards.vocab_size)
        if config.pos and shards.pos is None:
            raise DataError(
                "mlm.pos needs parts of speech, and the shards were encoded without",
                file=shards.folder,
                remedy="Encode the documents again with `biomlm tokenizer encode --pos en_core_web_sm`.",
            )

    def __call__(self, row: Row, passes_s: I64, done: float) -> Masked:
        """Hide tokens of some sequences, each in its pass over its source, when a share `done` of the run is over."""
        # A token is masked by its place and the pass over its source, so two copies of a sequence in a batch are masked apart.
        reading_t = np.repeat(mask_epoch(self.config, passes_s), row.lengths)
        draws_t = np.where(row.places_t < 0, row.places_t, row.places_t + reading_t * self.tokens)
        starts_word_t = self.tokenizer.is_word_start[row.ids_t]
        rate, may_t = rate_at(self.config, done), None if row.pos_t is None else np.isin(row.pos_t, self.wanted)
        positions_m = choose(self.config, draws_t, starts_word_t, row.lengths, key=self.key, rate=rate, may_t=may_t)
        shown_t = corrupt(
            self.config, row.ids_t, positions_m, draws_t, key=self.key, mask_id=self.mask_id, pieces=self.pieces
        )
        return Masked(shown_t, positions_m, row.ids_t[positions_m], row.places_t[positions_m])


def mask_epoch(config: MlmConfig, epoch: N) -> N:
    """Map epochs to the numbers that masks are drawn with: static masks repeat."""
    return epoch % config.static_masks if config.static_masks else epoch


def rate_at(config: MlmConfig, done: float) -> float:
    """Return the share of tokens to predict when a share `done` of the run is over, by `config.mask_schedule`."""
    if config.final_mask_rate is None:
        return config.mask_rate
    ways = {"linear": done, "cosine": (1 - math.cos(math.pi * done)) / 2, "step": float(done >= config.step_at)}
    return config.mask_rate + (config.final_mask_rate - config.mask_rate) * ways[config.mask_schedule]


def wanted(config: MlmConfig) -> npt.NDArray[np.int64]:
    """List the numbers of the parts of speech that tokens are chosen from, as shards hold them."""
    names = {tag for name in config.pos for tag in POS_SETS.get(name, (name,))}
    return np.array(sorted(ID[name] for name in names), dtype=np.int64)


def ordinary(special: SpecialIds, vocab_size: int) -> I64:
    """List all ids but those of the special tokens, wherever these stand: RoBERTa's `<mask>` is last, BERT's `[MASK]` among the first."""
    return np.setdiff1d(np.arange(vocab_size), [special.bos, special.pad, special.eos, special.unk, special.mask])


def choose(
    config: MlmConfig,
    places_t: I64,
    starts_word_t: Bools,
    lengths: npt.NDArray[np.integer],
    *,
    key: int,
    rate: float,
    may_t: Bools | None = None,
) -> I64:
    """Choose the flat positions to predict, ascending.

    Args:
        config: Unit and limit.
        places_t: Each token's place in the shard; -1 for `<s>` and `</s>`, which are never chosen.
        starts_word_t: Whether a token begins a word.
        lengths: Tokens of each sequence.
        key: Of this seed and epoch.
        rate: Share of tokens to predict, from `rate_at`.
        may_t: Which tokens may be chosen, where not all; with the unit `token` only.
    """
    if config.unit == "token":
        chosen_t = rng.uniform(rng.key(key, "choose"), places_t) < rate
    else:
        special_t = places_t < 0
        first_t = starts_word_t | special_t
        first_t[1:] |= special_t[
            :-1
        ]  # whose mark may be missing: a document's first word, or what is left of one that was cut
        word_of_t = np.cumsum(first_t) - 1
        places_w = places_t[first_t]  # a word is known by the place of its first token
        chosen_t = (_words if config.unit == "word" else _ngrams)(rate, places_w, key)[word_of_t]
    chosen_t &= places_t >= 0
    if may_t is not None:
        chosen_t &= may_t
    if config.max_predictions:
        chosen_t = _at_most(config.max_predictions, chosen_t, places_t, lengths, key)
    return np.flatnonzero(chosen_t)


def _words(rate: float, places_w: I64, key: int) -> Bools:
    return rng.uniform(rng.key(key, "choose"), places_w) < rate


def _ngrams(rate: float, places_w: I64, key: int) -> Bools:
    """Choose the words covered by n-grams of 1 to 3 words (probability ∝ 1/n), each word beginning one with the same probability.

    An n-gram ends at the edge of its stretch, where a special token, whose place is -1, stands as a word of its own. Others reach into
    the stretch from in front of it, drawn by the place of its first word, which would else be covered less often than the rest.
    """
    number_w, real_w = np.arange(len(places_w)), places_w >= 0
    nth_w = number_w - np.maximum.accumulate(
        np.where(real_w, -1, number_w)
    )  # in its stretch, from 1; 0 for special tokens
    opening_w = places_w[number_w - np.maximum(nth_w - 1, 0)]
    size_w = _sizes(rate, places_w, key)
    covered_w = size_w > 0
    for k in range(1, LONGEST_NGRAM):
        inside_w = nth_w > k
        covered_w |= inside_w & (size_w[number_w - k * inside_w] > k)
        for before in range(1, k + 1):  # of the first word
            words = np.flatnonzero(nth_w == k - before + 1)
            covered_w[words] |= _sizes(rate, opening_w[words], rng.key(key, "before", before)) > k
    return covered_w & real_w


def _sizes(rate: float, places_w: I64, key: int) -> I64:
    """Draw the size in words of the n-gram that begins at each word; 0 for none."""
    begins_w = rng.uniform(rng.key(key, "choose"), places_w) < ngram_rate(rate)
    longer_w = np.searchsorted(np.cumsum(NGRAM_SHARES)[:-1], rng.uniform(rng.key(key, "size"), places_w), side="right")
    return np.where(begins_w, 1 + longer_w, 0)


def ngram_rate(mask_rate: float) -> float:
    """Compute the probability with which a word must begin an n-gram so that a share `mask_rate` of words is covered.

    A word is left out if it begins none, the word before begins none of two or more, and so on: 1 - rate = Π (1 - p P(size > k)).
    """
    longer = 1 - np.concatenate([[0], np.cumsum(NGRAM_SHARES)[:-1]])
    low, high = 0.0, 1.0
    for _ in range(60):  # bisection to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - np.prod(1 - middle * longer) < mask_rate else (low, middle)
    return low


def _at_most(most: int, chosen_t: Bools, places_t: I64, lengths: npt.NDArray[np.integer], key: int) -> Bools:
    """Keep `most` chosen tokens of each sequence, picked by another hash."""
    positions_m = np.flatnonzero(chosen_t)
    sequence_m = np.repeat(np.arange(len(lengths)), lengths)[positions_m]
    order = np.lexsort((rng.bits(rng.key(key, "keep"), places_t[positions_m]), sequence_m))
    first_of_sequence = np.searchsorted(sequence_m[order], np.arange(len(lengths)))
    rank = np.arange(len(order)) - first_of_sequence[sequence_m[order]]
    kept = np.zeros(len(chosen_t), dtype=bool)
    kept[positions_m[order[rank < most]]] = True
    return kept


def corrupt(
    config: MlmConfig, ids_t: I64, positions_m: I64, places_t: I64, *, key: int, mask_id: int, pieces: I64
) -> I64:
    """Make the ids that the model sees: of the chosen tokens 80% `<mask>`, 10% a random piece, 10% as they are (`MlmConfig`'s defaults).

    Args:
        config: The shares.
        ids_t: The original ids.
        positions_m: From `choose`.
        places_t: As for `choose`.
        key: Of this seed and epoch.
        mask_id: The id of `<mask>`.
        pieces: The ids to draw random pieces from, from `ordinary`.
    """
    places_m = places_t[positions_m]
    how = rng.uniform(rng.key(key, "how"), places_m)
    random = pieces[rng.integers(rng.key(key, "token"), places_m, 0, len(pieces))]
    shown = np.where(how < config.mask_share, mask_id, ids_t[positions_m])
    is_random = (how >= config.mask_share) & (how < config.mask_share + config.random_share)
    corrupted_t = ids_t.copy()
    corrupted_t[positions_m] = np.where(is_random, random, shown)
    return corrupted_t
