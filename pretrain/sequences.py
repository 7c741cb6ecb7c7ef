"""From sentences in shards to training sequences, and from sequences to micro-batches: both planned from lengths alone.

A sequence is a run of whole sentences of one document, as long as fits (RoBERTa's DOC-SENTENCES); only a sentence that is longer than
a sequence is cut. No token is left out. A micro-batch is a run of sequences in the epoch's order. The number of micro-batches is
the same in every epoch, so a step's micro-batches follow from its number by division; their sizes differ by a sequence at most,
which costs nothing where nothing is padded.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from biolm.core import rng

I64 = npt.NDArray[np.int64]

SPECIALS = 2  # <s> and </s> around every sequence


@dataclass(frozen=True)
class Sequences:
    """Where each sequence's tokens stand in a shard's flat token row.

    Args:
        start: First token, [sequences].
        stop: Behind the last token, [sequences]; `</s>` of the sentences in between are inside and are dropped when read.
        length: Tokens without any `</s>`, [sequences].
    """

    start: I64
    stop: I64
    length: I64

    def __len__(self) -> int:
        return len(self.start)


def form_sequences(sizes: npt.NDArray[np.integer], doc_index: I64, max_length: int) -> Sequences:
    """Cut documents into sequences of whole sentences.

    All documents advance together, one sequence a round, so the work is vectorised and takes as many rounds as the longest document
    has sequences.

    Args:
        sizes: Tokens of every item (sentence) with its `</s>`, [items].
        doc_index: First item of every document, [documents + 1].
        max_length: Longest sequence in tokens, specials included.
    """
    body = max_length - SPECIALS
    real = np.concatenate([[0], np.cumsum(sizes - 1, dtype=np.int64)])  # tokens without </s> before item i
    raw = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    at, end = real[doc_index[:-1]], real[doc_index[1:]]
    pieces: list[tuple[I64, I64]] = []
    while len(at):
        alive = at < end
        at, end = at[alive], end[alive]
        limit = np.minimum(at + body, end)
        boundary = real[np.searchsorted(real, limit, side="right") - 1]
        cut = np.where(boundary > at, boundary, limit)  # a sentence longer than a sequence is cut at the limit
        pieces.append((at, cut))
        at = cut
    first = np.concatenate([a for a, _ in pieces]) if pieces else np.zeros(0, np.int64)
    last = np.concatenate([b for _, b in pieces]) if pieces else np.zeros(0, np.int64)
    order = np.argsort(first, kind="stable")
    first, last = first[order], last[order]
    item = np.searchsorted(real, first, side="right") - 1
    last_item = np.searchsorted(real, last - 1, side="right") - 1
    return Sequences(
        start=raw[item] + first - real[item], stop=raw[last_item] + last - real[last_item], length=last - first
    )


@dataclass(frozen=True)
class EpochPlan:
    """The order of one epoch and its micro-batches.

    Args:
        order: Sequence numbers, [sequences].
        bounds: Where micro-batches begin in `order`, [micro-batches + 1].
    """

    order: I64
    bounds: I64

    def micro_batch(self, index: int) -> I64:
        """Sequence numbers of one micro-batch."""
        return self.order[self.bounds[index] : self.bounds[index + 1]]


def micro_batches_per_epoch(sequences: Sequences, tokens: int, accumulation: int) -> int:
    """A multiple of `accumulation` such that micro-batches hold `tokens` tokens (specials included) or a little less on average."""
    total = int(sequences.length.sum()) + SPECIALS * len(sequences)
    wanted = accumulation * -(-total // (tokens * accumulation))
    return max(accumulation, wanted)


def plan_epoch(sequences: Sequences, micro_batches: int, seed: int, epoch: int) -> EpochPlan:
    """Shuffle the sequences and cut the row into micro-batches of nearly equal token counts."""
    order = rng.permutation(rng.key(seed, "order", epoch), len(sequences))
    reached = np.cumsum(sequences.length[order] + SPECIALS)
    targets = np.arange(1, micro_batches) * (reached[-1] / micro_batches)
    inner = np.searchsorted(reached, targets, side="left") + 1
    return EpochPlan(order, np.concatenate([[0], np.minimum(inner, len(order)), [len(order)]]))
