"""In which micro-batch of an epoch each sequence is read: the sequences are shuffled, and the row is cut at equal token counts.

The number of micro-batches is the same in every epoch, so a step's micro-batches follow from its number by division; their sizes
differ by a sequence at most, which costs nothing where nothing is padded.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from biomlm.core import rng
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.sequences import I64, Reading, Sequences


@dataclass(frozen=True)
class EpochPlan:
    """The order of one epoch and its micro-batches.

    Args:
        epoch: What it reads, in no particular order.
        order: Sequence numbers, [sequences].
        bounds: Where micro-batches begin in `order`, [micro-batches + 1].
    """

    epoch: Reading
    order: I64
    bounds: I64

    def micro_batch(self, index: int, most: int | None = None) -> Reading:
        """Return what one micro-batch reads, in order, or the first `most` sequences of it."""
        numbers, all_ = self.order[self.bounds[index] : self.bounds[index + 1]][:most], self.epoch.sequences
        sequences = replace(
            all_,
            start=all_.start[numbers],
            stop=all_.stop[numbers],
            tokens=all_.tokens[numbers],
            labels=all_.labels[numbers],
        )
        return Reading(sequences, self.epoch.passes[numbers])


class Order:
    """Shuffles the sequences of every epoch and cuts the row into micro-batches.

    Args:
        epoch: Number of an epoch → what it reads, in no particular order.
        sizes: Tokens of a micro-batch, and micro-batches of a step.
        seed: Of the shuffling.
    """

    def __init__(self, epoch: Callable[[int], Reading], sizes: BatchConfig, seed: int):
        self.per_epoch = micro_batches_per_epoch(epoch(0).sequences, sizes.tokens, sizes.accumulation)
        self.plan = lru_cache(maxsize=2)(lambda number: plan_epoch(epoch(number), self.per_epoch, seed, number))


def micro_batches_per_epoch(sequences: Sequences, tokens: int, accumulation: int) -> int:
    """Return a multiple of `accumulation` such that micro-batches hold `tokens` tokens (specials included) or a little less on average."""
    wanted = accumulation * -(-int(sequences.tokens.sum()) // (tokens * accumulation))
    return max(accumulation, wanted)


def plan_epoch(epoch: Reading, micro_batches: int, seed: int, number: int) -> EpochPlan:
    """Shuffle the sequences of the epoch of this number and cut the row into micro-batches of nearly equal token counts."""
    order = rng.permutation(rng.key(seed, "order", number), len(epoch.sequences))
    reached = np.cumsum(epoch.sequences.tokens[order])
    targets = np.arange(1, micro_batches) * (reached[-1] / micro_batches)
    inner = np.searchsorted(reached, targets, side="left") + 1
    return EpochPlan(epoch, order, np.concatenate([[0], np.minimum(inner, len(order)), [len(order)]]))
