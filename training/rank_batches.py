"""A rank's part of a step: micro-batches are distributed round-robin, so any number of ranks computes the same ones with the same masks.

Where the accumulation is no multiple of the ranks, some have one micro-batch less. They compute one with weight 0 in its place, since
ranks that all-reduce gradients must go forward and backward equally often; its losses and gradients are zeros.
"""

import hashlib
from dataclasses import astuple, dataclass, replace

import torch

from biomlm.model.config import EncoderConfig
from biomlm.model.flops import step_flops
from biomlm.pretrain.data.batches import Batch, Batches
from biomlm.pretrain.data.curriculum import Curriculum
from biomlm.training.objective import LossDenominators

FINGERPRINT = 2**63 - 1


@dataclass(frozen=True)
class RankBatches:
    """What one rank computes in one step.

    Args:
        batches: Its micro-batches.
        weights: 1 for each, or 0 for one that only keeps the rank in time.
        totals: Of its own micro-batches.
        flops: Of its own micro-batches.
        fingerprint: Sum of hashes of their ids, masks and labels, modulo 2^63: over all ranks it does not depend on their number.
    """

    batches: list[Batch]
    weights: list[float]
    totals: list[int]
    flops: int
    fingerprint: int

    def pin(self) -> "RankBatches":
        """Return the same in page-locked memory."""
        return replace(self, batches=[batch.pin() for batch in self.batches])


def batches_of_rank(
    batches: Batches | Curriculum, step: int, rank: int, ranks: int, model: EncoderConfig, all_rows: bool = True
) -> RankBatches:
    """Choose the part of `rank` among `ranks` in a step, counted from 0; `all_rows` as in `pretrain.planning.estimate`."""
    names = batches.names(step)
    own = [batch for name in names[rank::ranks] if (batch := batches.micro_batch(*name)) is not None]
    missing = -(-len(names) // ranks) - len(own) if ranks > 1 else 0
    filler = (own or batches.step(step))[:1] * missing if missing else []
    weights = [1.0] * len(own) + [0.0] * len(filler)
    flops = sum(_flops(batch, model, all_rows) for batch in own)
    hashes = sum(map(fingerprint, own)) & FINGERPRINT
    return RankBatches(own + filler, weights, list(astuple(LossDenominators.of(own))), int(flops), hashes)


def _flops(batch: Batch, model: EncoderConfig, all_rows: bool) -> float:
    lengths, predicted = batch.packed.lengths, len(batch.labels_m)
    rows = predicted + (0 if batch.pair_labels_b is None else len(lengths))
    return step_flops(model, lengths, predicted, None if all_rows else rows)


def fingerprint(batch: Batch) -> int:
    """Hash all that a micro-batch shows a model and asks of it, to 63 bits."""
    digest = hashlib.blake2b(repr((batch.epoch, batch.index, batch.packed.lengths)).encode(), digest_size=8)
    parts = (batch.packed.input_ids_t, batch.packed.token_type_ids_t, batch.positions_m, batch.labels_m)
    for part in (*parts, batch.pair_labels_b):
        digest.update(b"-" if part is None else part.to(torch.int64).numpy().tobytes())
    return int.from_bytes(digest.digest(), "big") & FINGERPRINT
