"""A batch as a pure function of (configuration, shards, seed, step).

Nothing here has state that a checkpoint would have to hold: any process can make any step's micro-batches at any time, and gets
the same tokens, order and masks.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from biolm.core import rng
from biolm.model.packed import Packed
from biolm.pretrain.config import BatchConfig, MlmConfig, PairKind
from biolm.pretrain.forms import former
from biolm.pretrain.masking import choose, corrupt, mask_epoch
from biolm.pretrain.rows import lay_out
from biolm.pretrain.sequences import EpochPlan, Sequences, micro_batches_per_epoch, plan_epoch
from biolm.pretrain.shards import Shards, check_ids

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """One micro-batch for a masked-LM objective.

    Args:
        packed: Sequences with masks in place.
        positions_m: Flat positions to predict, int64, ascending.
        labels_m: The original ids there.
        epoch: Which pass over the shards it belongs to, from 0; never repeated, whatever the curriculum.
        index: Which micro-batch of that epoch it is, from 0. With the epoch it names the micro-batch of a run.
        places_m: Where in the shards the predicted tokens stand; stays on the CPU. Not unique in a batch that holds a sequence twice.
        pair_labels_b: What kind of pair each sequence is (`pretrain.pairs`), NO_LABEL for none; None where there are no pairs.
    """

    packed: Packed
    positions_m: Tensor
    labels_m: Tensor
    epoch: int = 0
    index: int = 0
    places_m: I64 | None = None
    pair_labels_b: Tensor | None = None

    def pin(self) -> "Batch":
        """The same micro-batch in page-locked memory, from which a GPU copies by itself."""
        ids_t, types_t = self.packed.input_ids_t.pin_memory(), self.packed.token_type_ids_t
        types_t = None if types_t is None else types_t.pin_memory()
        packed = Packed(ids_t, self.packed.lengths, types_t)
        return replace(
            self,
            packed=packed,
            positions_m=self.positions_m.pin_memory(),
            labels_m=self.labels_m.pin_memory(),
            pair_labels_b=None if self.pair_labels_b is None else self.pair_labels_b.pin_memory(),
        )

    def to(self, device: torch.device) -> "Batch":
        """The same micro-batch on another device."""
        return replace(
            self,
            packed=self.packed.to(device),
            positions_m=self.positions_m.to(device, non_blocking=True),
            labels_m=self.labels_m.to(device, non_blocking=True),
            pair_labels_b=None if self.pair_labels_b is None else self.pair_labels_b.to(device, non_blocking=True),
        )


class Batches:
    """The micro-batches of one split.

    Args:
        reader: The split's shards.
        mlm: What is masked.
        batch: Sizes.
        seed: Of order and masks.
        pair: The pair objective, if there is one.
        segments: Whether the model has token types, which decides on a pair's special tokens.
    """

    def __init__(
        self,
        reader: Shards,
        mlm: MlmConfig,
        batch: BatchConfig,
        seed: int,
        pair: PairKind | None = None,
        segments: bool = False,
    ):
        self.reader, self.mlm, self.batch, self.seed, self.segments = reader, mlm, batch, seed, segments
        self.form = former(reader, batch, pair, segments)
        self.plan = lru_cache(maxsize=2)(self._plan)
        self.sequences = lru_cache(maxsize=2)(self._sequences)
        self.per_epoch = micro_batches_per_epoch(self.sequences(0), batch.tokens, batch.accumulation)

    def _sequences(self, epoch: int) -> Sequences:
        """Those of one epoch; with static masks, pairs come round again with them."""
        return self.form(rng.key(self.seed, "pairs", mask_epoch(self.mlm, epoch)))

    def _plan(self, epoch: int) -> EpochPlan:
        return plan_epoch(self.sequences(epoch), self.per_epoch, self.seed, epoch)

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of one pass, special ones of sequences included; with pairs, of the first pass, and the others are about as long."""
        return int(self.sequences(0).tokens.sum())

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one pass."""
        return self.per_epoch // self.batch.accumulation

    def step(self, step: int) -> list[Batch]:
        """All micro-batches of an optimiser step, counted from 0; empty ones (a tiny corpus) are left out."""
        first = step * self.batch.accumulation
        made = [self.micro_batch(*divmod(first + i, self.per_epoch)) for i in range(self.batch.accumulation)]
        return [batch for batch in made if batch is not None]

    def micro_batch(self, epoch: int, index: int) -> Batch | None:
        """One micro-batch of an epoch, or None where the corpus has fewer sequences than micro-batches."""
        sequences, numbers = self.sequences(epoch), self.plan(epoch).micro_batch(index)
        if not len(numbers):
            return None
        row = lay_out(sequences, numbers, self.reader.tokens, self.reader.tokenizer.ids, self.segments)
        ids_t, places_t = row.ids_t, row.places_t
        check_ids(self.reader, ids_t, places_t)
        key = rng.key(self.seed, "mask", mask_epoch(self.mlm, epoch))
        starts_word_t = self.reader.tokenizer.is_word_start[ids_t]
        positions_m = choose(self.mlm, places_t, starts_word_t, row.lengths, key)
        special = self.reader.tokenizer.ids
        pieces = (1 + max(special.bos, special.pad, special.eos, special.unk), self.reader.vocab_size - 1)
        corrupted_t = corrupt(self.mlm, ids_t, positions_m, places_t, key, special.mask, pieces)
        types_t = torch.from_numpy(row.types_t) if self.segments and row.types_t.any() else None
        packed = Packed(torch.from_numpy(corrupted_t), tuple(row.lengths.tolist()), types_t)
        labels_m = torch.from_numpy(ids_t[positions_m])
        paired = sequences.start.shape[1] > 1
        pair_labels_b = torch.from_numpy(sequences.labels[numbers]) if paired else None
        return Batch(
            packed, torch.from_numpy(positions_m), labels_m, epoch, index, places_t[positions_m], pair_labels_b
        )
