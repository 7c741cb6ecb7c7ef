"""From places in a shard to the flat row of tokens that the model reads.

A single sequence is `<s> A </s>`. A pair is `[CLS] A [SEP] B [SEP]` with token types 0 and 1 for models that have them, as BERT, and
`<s> A </s></s> B </s>` for those that have not, as RoBERTa: the same as in `biomlm finetune`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from biomlm.pretrain.data.dataset import Shards, Tokens, check_ids
from biomlm.pretrain.data.sequences import Sequences
from biomlm.tokenizer.formats.folder import SpecialIds

I64 = npt.NDArray[np.int64]

NOWHERE = -1


@dataclass(frozen=True)
class Row:
    """Sequences laid end to end.

    Args:
        ids_t: Token ids.
        places_t: Each token's place in the shard; NOWHERE for special tokens.
        types_t: 1 for the second segment of a pair and its end, else 0.
        lengths: Tokens of each sequence.
        pair_labels_b: What kind of pair each sequence is; None where they are no pairs.
    """

    ids_t: I64
    places_t: I64
    types_t: I64
    lengths: I64
    pair_labels_b: I64 | None


def pair_specials(segments: bool) -> int:
    """Count the special tokens of a pair, for a model with token types or without."""
    return 3 if segments else 4


class Collator:
    """Lays sequences of a split end to end.

    Args:
        shards: The split, whose tokens they are.
        segments: Whether the model has token types, which decides on the form of a pair.
    """

    def __init__(self, shards: Shards, segments: bool):
        self.shards, self.segments = shards, segments

    def __call__(self, sequences: Sequences, numbers: I64) -> Row:
        """Lay out the sequences with these numbers, with their special tokens.

        Raises:
            DataError: An id is beyond the vocabulary.
        """
        row = collate(sequences, numbers, self.shards.tokens, self.shards.ids, segments=self.segments)
        check_ids(self.shards, row.ids_t, row.places_t)
        return row


def collate(sequences: Sequences, numbers: I64, tokens: Tokens, special: SpecialIds, *, segments: bool) -> Row:
    """Lay some sequences end to end, with their special tokens.

    Args:
        sequences: All of them.
        numbers: Which ones, in which order.
        tokens: The shard's flat token row.
        special: Ids of the special tokens.
        segments: Whether the model has token types, which decides on the form of a pair.
    """
    start_s, stop_s = sequences.start[numbers].ravel(), sequences.stop[numbers].ravel()  # [segments of all sequences]
    second_s = np.arange(len(start_s)) % sequences.start.shape[1]
    size_s = stop_s - start_s
    segment_r = np.repeat(np.arange(len(size_s)), size_s)  # r: the shard's tokens, with the </s> of its sentences
    places_r = np.arange(len(segment_r)) + np.repeat(start_s - (np.cumsum(size_s) - size_s), size_s)
    raw_r = tokens[places_r]
    real_r = raw_r != special.eos
    keep_r = real_r | _among(places_r, sequences.separators)
    places_k, segment_k = places_r[keep_r], segment_r[keep_r]  # k: those that are kept

    front_s = np.where(second_s == 0, 1, 0 if segments else 1)
    kept_s = np.bincount(segment_k, minlength=len(size_s))
    width_s = np.where(size_s > 0, front_s + kept_s + 1, 0)
    begin_s = np.cumsum(width_s) - width_s
    rank_k = np.arange(len(segment_k)) - (np.cumsum(kept_s) - kept_s)[segment_k]
    at_k = begin_s[segment_k] + front_s[segment_k] + rank_k

    ids_t = np.full(width_s.sum(), special.eos, np.int64)  # what is neither written below is an end
    ids_t[begin_s[second_s == 0]] = special.bos
    ids_t[at_k] = raw_r[keep_r]
    places_t = np.full(len(ids_t), NOWHERE, np.int64)
    places_t[at_k] = np.where(real_r[keep_r], places_k, NOWHERE)
    segments_each = sequences.start.shape[1]
    lengths = width_s.reshape(-1, segments_each).sum(1)
    labels_b = sequences.labels[numbers] if segments_each > 1 else None
    return Row(ids_t, places_t, np.repeat(second_s, width_s), lengths, labels_b)


def _among(places: I64, ascending: I64) -> npt.NDArray[np.bool_]:
    """Tell which places are in a long ascending list."""
    at = np.searchsorted(ascending, places)
    inside = at < len(ascending)
    inside[inside] = ascending[at[inside]] == places[inside]
    return inside
