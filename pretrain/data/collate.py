"""From tokens as they stand in the shards to the flat row that the model reads.

A single sequence is `<s> A </s>`. A pair is `[CLS] A [SEP] B [SEP]` with token types 0 and 1 for models that have them, as BERT, and
`<s> A </s></s> B </s>` for those that have not, as RoBERTa: the same as in `biomlm finetune`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from biomlm.pretrain.data.dataset import Stretches
from biomlm.pretrain.data.sequences import Sequences
from biomlm.tokenizer.formats.folder import SpecialIds

I64 = npt.NDArray[np.int64]

NOWHERE = -1


@dataclass(frozen=True, kw_only=True)
class Row:
    """Sequences laid end to end.

    Args:
        ids_t: Token ids.
        places_t: Each token's place in the shard; NOWHERE for special tokens.
        types_t: 1 for the second segment of a pair and its end, else 0.
        lengths: Tokens of each sequence.
        pos_t: Parts of speech, where these are read; 0 for special tokens.
        pair_labels_b: What kind of pair each sequence is; None where they are no pairs.
    """

    ids_t: I64
    places_t: I64
    types_t: I64
    lengths: I64
    pos_t: I64 | None
    pair_labels_b: I64 | None


def collate(tokens: Stretches, sequences: Sequences, special: SpecialIds, *, segments: bool) -> Row:
    """Lay sequences end to end, with their special tokens.

    Args:
        tokens: Of their segments, as they stand in the shards: with a `</s>` behind every sentence.
        sequences: What they are.
        special: Ids of the special tokens.
        segments: Whether the model has token types, which decides on the form of a pair.
    """
    segments_each = sequences.start.shape[1]
    second_s = np.arange(sequences.start.size) % segments_each  # s: segments of all sequences
    real_r = tokens.ids_r != special.eos
    keep_r = real_r | _among(tokens.places_r, sequences.separators)
    segment_k = tokens.stretch_r[keep_r]  # k: tokens that are kept

    front_s = np.where(second_s == 0, 1, 0 if segments else 1)
    kept_s = np.bincount(segment_k, minlength=len(second_s))
    width_s = np.where((sequences.stop > sequences.start).ravel(), front_s + kept_s + 1, 0)
    begin_s = np.cumsum(width_s) - width_s
    rank_k = np.arange(len(segment_k)) - (np.cumsum(kept_s) - kept_s)[segment_k]
    at_k = begin_s[segment_k] + front_s[segment_k] + rank_k

    ids_t = np.full(width_s.sum(), special.eos, np.int64)  # what is neither written below is an end
    ids_t[begin_s[second_s == 0]] = special.bos
    ids_t[at_k] = tokens.ids_r[keep_r]
    places_t = np.full(len(ids_t), NOWHERE, np.int64)
    places_t[at_k] = np.where(real_r, tokens.places_r, NOWHERE)[keep_r]
    pos_t = None
    if tokens.pos_r is not None:
        pos_t = np.zeros(len(ids_t), np.int64)
        pos_t[at_k] = tokens.pos_r[keep_r]
    lengths = width_s.reshape(-1, segments_each).sum(1)
    labels_b = sequences.labels if segments_each > 1 else None
    return Row(
        ids_t=ids_t,
        places_t=places_t,
        types_t=np.repeat(second_s, width_s),
        lengths=lengths,
        pos_t=pos_t,
        pair_labels_b=labels_b,
    )


def _among(places: I64, ascending: I64) -> npt.NDArray[np.bool_]:
    """Tell which places are in a long ascending list."""
    at = np.searchsorted(ascending, places)
    inside = at < len(ascending)
    inside[inside] = ascending[at[inside]] == places[inside]
    return inside
