"""In which micro-batch of an epoch each sequence is read: the sequences are shuffled, and the row is cut at equal token counts.

The number of micro-batches is the same in every epoch, so a step's micro-batches follow from its number by division; their sizes
differ by a sequence at most, which costs nothing where nothing is padded.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from biomlm.core import rng
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.sequences import I64, Epoch, Sequences

NEARLY = 0.95  # of the tokens that a step is asked to have


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
        """Return the sequence numbers of one micro-batch."""
        return self.order[self.bounds[index] : self.bounds[index + 1]]


class Order:
    """Shuffles the sequences of every epoch and cuts the row into micro-batches.

    Args:
        epoch: Number of an epoch → what it reads.
        sizes: Tokens of a micro-batch, and micro-batches of a step.
        seed: Of the shuffling.
    """

    def __init__(self, epoch: Callable[[int], Epoch], sizes: BatchConfig, seed: int):
        self.per_epoch = micro_batches_per_epoch(epoch(0).sequences, sizes.tokens, sizes.accumulation)
        self.plan = lru_cache(maxsize=2)(
            lambda number: plan_epoch(epoch(number).sequences, self.per_epoch, seed, number)
        )


def passes_to_join(pass_: int, step: int) -> int:
    """Find the fewest passes that divide into equal steps of `step` tokens or little less; 1 where a pass is shorter than a step."""
    if pass_ < step:
        return 1
    return next(n for n in itertools.count(1) if n * pass_ >= NEARLY * step * -(-n * pass_ // step))


def micro_batches_per_epoch(sequences: Sequences, tokens: int, accumulation: int) -> int:
    """Return a multiple of `accumulation` such that micro-batches hold `tokens` tokens (specials included) or a little less on average."""
    wanted = accumulation * -(-int(sequences.tokens.sum()) // (tokens * accumulation))
    return max(accumulation, wanted)


def plan_epoch(sequences: Sequences, micro_batches: int, seed: int, epoch: int) -> EpochPlan:
    """Shuffle the sequences and cut the row into micro-batches of nearly equal token counts."""
    order = rng.permutation(rng.key(seed, "order", epoch), len(sequences))
    reached = np.cumsum(sequences.tokens[order])
    targets = np.arange(1, micro_batches) * (reached[-1] / micro_batches)
    inner = np.searchsorted(reached, targets, side="left") + 1
    return EpochPlan(order, np.concatenate([[0], np.minimum(inner, len(order)), [len(order)]]))
