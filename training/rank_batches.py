"""A rank's part of a step: micro-batches are distributed round-robin, so any number of ranks computes the same ones with the same masks.

Where the number of micro-batches is no multiple of the ranks, some have one less. They compute one with weight 0 in its place, since
ranks that all-reduce gradients must go forward and backward equally often; its losses and gradients are zeros.
"""

import hashlib
from dataclasses import astuple, dataclass, replace
from typing import Generic

import torch

from biomlm.model.config import EncoderConfig
from biomlm.model.flops import step_flops
from biomlm.training.batches import NamedBatches
from biomlm.training.objective import B, LossDenominators, MicroBatch

FINGERPRINT = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class RankBatches(Generic[B]):
    """What one rank computes in one step.

    Args:
        batches: Its micro-batches.
        weights: 1 for each, or 0 for one that only keeps the rank in time.
        totals: Of its own micro-batches.
        flops: Of its own micro-batches.
        fingerprint: Sum of hashes of their ids, masks and labels, modulo 2^63: over all ranks it does not depend on their number.
    """

    batches: list[B]
    weights: list[float]
    totals: list[int]
    flops: int
    fingerprint: int

    def pin(self) -> "RankBatches[B]":
        """Return the same in page-locked memory."""
        return replace(self, batches=[batch.pin() for batch in self.batches])


def batches_of_rank(
    batches: NamedBatches[B], step: int, rank: int, ranks: int, *, model: EncoderConfig, all_rows: bool = True
) -> RankBatches[B]:
    """Choose the part of `rank` among `ranks` in a step, counted from 0; `all_rows` is `Objective.reads_all_rows`."""
    names = batches.names(step)
    own = [batch for name in names[rank::ranks] if (batch := batches.make(name)) is not None]
    missing = -(-len(names) // ranks) - len(own) if ranks > 1 else 0
    filler = (own or [batch for name in names if (batch := batches.make(name)) is not None])[:1] * missing
    weights = [1.0] * len(own) + [0.0] * len(filler)
    flops = sum(_flops(batch, model, all_rows) for batch in own)
    return RankBatches(
        batches=own + filler,
        weights=weights,
        totals=list(astuple(LossDenominators.of(own))),
        flops=int(flops),
        fingerprint=sum(map(fingerprint, own)) & FINGERPRINT,
    )


def _flops(batch: MicroBatch, model: EncoderConfig, all_rows: bool) -> float:
    return step_flops(model, batch.packed.lengths, batch.predicted, None if all_rows else batch.rows)


def fingerprint(batch: MicroBatch) -> int:
    """Hash all that a micro-batch shows a model and asks of it, to 63 bits."""
    digest = hashlib.blake2b(repr((*batch.name, batch.packed.lengths)).encode(), digest_size=8)
    for part in batch.shown():
        exact = part if part is None or part.is_floating_point() else part.to(torch.int64)
        digest.update(b"-" if exact is None else exact.numpy().tobytes())
    return int.from_bytes(digest.digest(), "big") & FINGERPRINT
