"""From sentences in shards to training sequences, planned from lengths alone.

A sequence is a run of whole sentences, as long as fits: of one document (RoBERTa's DOC-SENTENCES), or across documents with one
`</s>` between two (its FULL-SENTENCES; Liu et al. 2019, arXiv 1907.11692, section 4.2); or a pair of such runs
(`data.segment_pairs`). Only a sentence that is longer than a sequence is cut. No token is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from biomlm.model.kernels.cross_entropy import NO_LABEL

I64 = npt.NDArray[np.int64]

SPECIALS = 2  # <s> and </s> around a sequence that is no pair


def pair_specials(segments: bool) -> int:
    """Count the special tokens of a pair, for a model with token types or without (`pretrain.data.collate` sets them)."""
    return 3 if segments else 4


@dataclass(frozen=True)
class SentenceSpans:
    """What sequences are put together from: sentences, cut where they are longer than a sequence; those without tokens are left out.

    Args:
        start: Place of the first token in the shard's flat token row, [units].
        length: Tokens, without `</s>`, [units].
        document: Number of the document, [units].
        bounds: First unit of every document, then the number of units, [documents + 1].
        separators: Place of the `</s>` behind every document that has tokens.
    """

    start: I64
    length: I64
    document: I64
    bounds: I64
    separators: I64

    @property
    def stop(self) -> I64:
        """The place behind the last token, [units]."""
        return self.start + self.length

    @property
    def document_end(self) -> I64:
        """The first unit of the next document, [units]."""
        end: I64 = self.bounds[self.document + 1]
        return end


def split_long(sizes: npt.NDArray[np.integer], doc_index: I64, longest: int) -> SentenceSpans:
    """Split sentences that are too long.

    Args:
        sizes: Tokens of every item (sentence) with its `</s>`, [items].
        doc_index: First item of every document, [documents + 1].
        longest: Most tokens of a unit.
    """
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    pieces = -(-(sizes.astype(np.int64) - 1) // longest)
    before = np.concatenate([[0], np.cumsum(pieces)])
    item = np.repeat(np.arange(len(sizes)), pieces)
    done = longest * (np.arange(before[-1]) - before[item])  # tokens of the item that stand in earlier units
    bounds = before[doc_index]
    units = np.diff(bounds)
    return SentenceSpans(
        start=offsets[item] + done,
        length=np.minimum(sizes[item] - 1 - done, longest),
        document=np.repeat(np.arange(len(units)), units),
        bounds=bounds,
        separators=offsets[doc_index[1:]][units > 0] - 1,
    )


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Where each sequence's tokens stand in a shard's flat token row.

    Args:
        start: First token of each segment, [sequences, segments]; there are two segments in pairs, else one.
        stop: Behind its last token; `</s>` of the sentences in between are inside. A second segment that is not there stops at its start.
        tokens: Tokens as the model reads them, special ones included, [sequences].
        labels: What kind of pair each one is (see `pretrain.data.segment_pairs`), or NO_LABEL, [sequences].
        separators: Places of the `</s>` that stay where they are inside a segment, ascending.
    """

    start: I64
    stop: I64
    tokens: I64
    labels: I64
    separators: I64

    def __len__(self) -> int:
        return len(self.tokens)


def pack_sentences(units: SentenceSpans, max_length: int, *, across: bool, source_of: I64 | None = None) -> Sequences:
    """Pack whole sentences into sequences of one segment.

    Args:
        units: No longer than `max_length` allows.
        max_length: Longest sequence in tokens, special ones included.
        across: Whether a sequence goes on into the next document, with a `</s>` between.
        source_of: The source of each document, where a sequence may hold no two.
    """
    opens = np.diff(units.document, prepend=0) > 0  # a document that is not the first one
    reached = np.cumsum(units.length + (opens if across else 0))
    begun = reached - units.length
    after = np.searchsorted(reached, begun + max_length - SPECIALS, side="right")
    if not across:
        after = np.minimum(after, units.document_end)
    elif source_of is not None:
        borders = np.flatnonzero(np.diff(source_of[units.document])) + 1
        after = np.minimum(
            after, np.append(borders, len(reached))[np.searchsorted(borders, np.arange(len(reached)), "right")]
        )
    first = sequence_starts(after)
    last = np.concatenate([first[1:], [len(reached)]])[: len(first)] - 1
    return Sequences(
        start=units.start[first, None],
        stop=units.stop[last, None],
        tokens=reached[last] - begun[first] + SPECIALS,
        labels=np.full(len(first), NO_LABEL),
        separators=units.separators if across else units.separators[:0],
    )


def sequence_starts(after: I64) -> I64:
    """List the units at which sequences begin, where one that begins at unit i is followed by one at `after[i]`."""
    starts, at, following = [], 0, np.ascontiguousarray(after, dtype=np.int64).data
    while at < len(after):
        starts.append(at)
        at = following[at]
    return np.array(starts, dtype=np.int64)


@dataclass(frozen=True)
class Reading:
    """What an epoch or a micro-batch reads.

    Args:
        sequences: Its sequences.
        passes: Which pass over its source each of them is of, from 0, [sequences].
    """

    sequences: Sequences
    passes: I64


def join(readings: Sequence[Reading]) -> Reading:
    """Join several readings into one."""
    if len(readings) == 1:
        return readings[0]
    taken = [(reading.sequences, np.arange(len(reading.sequences)), 0) for reading in readings]
    return Reading(chosen(taken), np.concatenate([reading.passes for reading in readings]))


def chosen(taken: list[tuple[Sequences, I64, int]]) -> Sequences:
    """Collect some sequences of several passes into one list."""
    names = [f.name for f in fields(Sequences) if f.name != "separators"]
    parts = {name: np.concatenate([getattr(s, name)[numbers] for s, numbers, _ in taken]) for name in names}
    return Sequences(**parts, separators=taken[0][0].separators)
