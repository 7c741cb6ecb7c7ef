"""A batch as a pure function of (configuration, shards, seed, step).

An epoch is planned once: `sequence_builder` says which sequences it reads, `order` shuffles them and cuts the row into micro-batches.
A micro-batch then goes through four parts, in one direction: `order` says which sequences it holds, `dataset` reads their tokens,
`collate` lays these out for the model, and `masking` hides some.

Nothing here has state that a checkpoint would have to hold: any process can make any step's micro-batches at any time, and gets
the same tokens, order and masks.
"""

from dataclasses import KW_ONLY, dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from biomlm.model.kernels.cross_entropy import NO_LABEL
from biomlm.model.packed import Packed
from biomlm.pretrain.data.collate import collate
from biomlm.pretrain.data.config import BatchConfig, MixConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.data.masking import Masker
from biomlm.pretrain.data.order import Order
from biomlm.pretrain.data.sequence_builder import EpochBuilder
from biomlm.pretrain.objectives.config import MlmConfig, Pairing
from biomlm.training.objective import LossDenominators

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """One micro-batch for a masked-LM objective.

    Args:
        packed: Sequences with masks in place.
        positions_m: Flat positions to predict, int64, ascending.
        labels_m: The original ids there.
        epoch: Which epoch it belongs to, from 0: a pass over the shards or several joined; never repeated, whatever the curriculum.
        index: Which micro-batch of that epoch it is, from 0. With the epoch it names the micro-batch of a run.
        step: Which optimiser step of the run it belongs to, from 0, whatever was stepped over in the data: the run's progress.
        places_m: Where in the shards the predicted tokens stand; stays on the CPU. Not unique in a batch that holds a sequence twice.
        pair_labels_b: What kind of pair each sequence is (`pretrain.data.segment_pairs`), NO_LABEL for none; None where there are no pairs.
        source: The same micro-batch in the host's memory, for whoever would have to wait for a device to read it; None for this one.
    """

    packed: Packed
    positions_m: Tensor
    labels_m: Tensor
    _: KW_ONLY
    epoch: int = 0
    index: int = 0
    step: int = 0
    places_m: I64 | None = None
    pair_labels_b: Tensor | None = None
    source: "Batch | None" = None

    @property
    def on_host(self) -> "Batch":
        """The same micro-batch in the host's memory."""
        return self if self.source is None else self.source

    @property
    def name(self) -> tuple[int, int]:
        """See `MicroBatch`."""
        return self.epoch, self.index

    @property
    def predicted(self) -> int:
        """See `MicroBatch`."""
        return len(self.labels_m)

    @property
    def rows(self) -> int:
        """See `MicroBatch`: a pair is known by its first token."""
        return self.predicted + (0 if self.pair_labels_b is None else self.pieces)

    @property
    def pieces(self) -> int:
        """See `MicroBatch`: its sequences."""
        return len(self.packed.lengths)

    def denominators(self) -> LossDenominators:
        """See `MicroBatch`."""
        pairs = 0 if self.pair_labels_b is None else int((self.pair_labels_b != NO_LABEL).sum())
        return LossDenominators(self.predicted, len(self.packed.input_ids_t), pairs)

    def shown(self) -> tuple[Tensor | None, ...]:
        """See `MicroBatch`."""
        packed = self.packed
        return packed.input_ids_t, packed.token_type_ids_t, self.positions_m, self.labels_m, self.pair_labels_b

    def first(self, pieces: int) -> "Batch":
        """See `MicroBatch`."""
        lengths = self.packed.lengths[:pieces]
        types_t, pairs_b = self.packed.token_type_ids_t, self.pair_labels_b
        tokens = sum(lengths)
        predicted = int((self.positions_m < tokens).sum())
        packed = Packed(self.packed.input_ids_t[:tokens], lengths, None if types_t is None else types_t[:tokens])
        return replace(
            self,
            packed=packed,
            positions_m=self.positions_m[:predicted],
            labels_m=self.labels_m[:predicted],
            places_m=None if self.places_m is None else self.places_m[:predicted],
            pair_labels_b=None if pairs_b is None else pairs_b[:pieces],
        )

    def pin(self) -> "Batch":
        """Return the same micro-batch in page-locked memory, which a GPU copies from asynchronously."""
        return replace(
            self,
            packed=self.packed.pin(),
            positions_m=self.positions_m.pin_memory(),
            labels_m=self.labels_m.pin_memory(),
            pair_labels_b=None if self.pair_labels_b is None else self.pair_labels_b.pin_memory(),
        )

    def to(self, device: torch.device) -> "Batch":
        """Return the same micro-batch on another device."""
        return replace(
            self,
            packed=self.packed.to(device),
            positions_m=self.positions_m.to(device, non_blocking=True),
            labels_m=self.labels_m.to(device, non_blocking=True),
            pair_labels_b=None if self.pair_labels_b is None else self.pair_labels_b.to(device, non_blocking=True),
            source=self.on_host,
        )


class Batches:
    """The micro-batches of one split, of sequences of one length: a stage of a run (see `pretrain.data.curriculum`), or all of it.

    Args:
        reader: The split's shards.
        mlm: What is masked.
        batch: Sizes.
        seed: Of order and masks.
        pairing: Which pairs the sequences are, if they are.
        segments: Whether the model has token types, which decides on a pair's special tokens.
        mix: How sources are mixed.
        first_step: Of the stage.
        steps: Of the run, over which the masking rate may change.
        join: Join passes over the shards to one epoch (see `EpochBuilder`).
    """

    def __init__(
        self,
        reader: Shards,
        mlm: MlmConfig,
        batch: BatchConfig,
        seed: int,
        *,
        pairing: Pairing | None = None,
        segments: bool = False,
        mix: MixConfig | None = None,
        first_step: int = 0,
        steps: int = 1,
        join: bool = False,
    ):
        self.reader, self.batch, self.segments, self.first_step, self.steps = reader, batch, segments, first_step, steps
        self.first_epoch = 0  # of the stage: the epochs before it belong to earlier ones
        self.ahead = 0  # steps of the plan that were stepped over, or that an earlier run has read
        self.special, self.reads_pos = reader.ids, bool(mlm.pos)
        self.mask = Masker(mlm, reader, seed)
        self.epochs = EpochBuilder(
            reader, mlm, batch, seed, pairing=pairing, segments=segments, mix=mix or MixConfig(), join_passes=join
        )
        self.order = Order(self.epochs, batch, seed)

    def micro_batch(self, epoch: int, index: int, most: int | None = None) -> Batch | None:
        """Make one micro-batch of an epoch, or its first sequences; None where the corpus has fewer sequences than micro-batches."""
        step = self._step_of(epoch, index)
        read = self.order.plan(epoch).micro_batch(index, most)
        if not len(read.passes):
            return None
        segments = read.sequences.start.ravel(), read.sequences.stop.ravel()
        row = collate(
            self.reader.read(*segments, pos=self.reads_pos), read.sequences, self.special, segments=self.segments
        )
        masked = self.mask(row, read.passes, step / self.steps)
        types_t = torch.from_numpy(row.types_t) if self.segments and row.types_t.any() else None
        return Batch(
            Packed(torch.from_numpy(masked.shown_t), tuple(row.lengths.tolist()), types_t),
            torch.from_numpy(masked.positions_m),
            torch.from_numpy(masked.labels_m),
            epoch=epoch,
            index=index,
            step=step,
            places_m=masked.places_m,
            pair_labels_b=None if row.pair_labels_b is None else torch.from_numpy(row.pair_labels_b),
        )

    def step(self, step: int) -> list[Batch]:
        """Make all micro-batches of an optimiser step, counted from 0; empty ones (a tiny corpus) are left out."""
        micro_batches = [self.micro_batch(*name) for name in self.names(step)]
        return [batch for batch in micro_batches if batch is not None]

    def names(self, step: int) -> list[tuple[int, int]]:
        """List the epoch and index of each micro-batch of an optimiser step, counted from 0."""
        return self._planned(step - self.first_step + self.ahead)

    def _planned(self, step: int) -> list[tuple[int, int]]:
        """List the same for a step of the stage's plan, counted from 0."""
        first = step * self.batch.accumulation
        numbers = (divmod(first + i, self.per_epoch) for i in range(self.batch.accumulation))
        return [(self.first_epoch + epoch, index) for epoch, index in numbers]

    def _step_of(self, epoch: int, index: int) -> int:
        """Return the step of the run that reads a micro-batch: the reverse of `names`."""
        planned = ((epoch - self.first_epoch) * self.per_epoch + index) // self.batch.accumulation
        return self.first_step + planned - self.ahead

    def make(self, name: tuple[int, ...]) -> Batch | None:
        """See `training.batches.NamedBatches`."""
        epoch, index = name
        return self.micro_batch(epoch, index)

    @property
    def per_epoch(self) -> int:
        """The number of micro-batches of one epoch."""
        return self.order.per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """The number of optimiser steps of one epoch."""
        return self.per_epoch // self.batch.accumulation

    @property
    def tokens_per_step(self) -> float:
        """The mean number of tokens of an optimiser step."""
        return self.epochs.joined * self.epochs.tokens_per_pass / self.steps_per_epoch

    def passes(self, step: int) -> dict[str, float]:
        """Count how often this stage has read each mixed source before a step, if nothing was stepped over."""
        epoch, index = self._planned(step - self.first_step)[0]
        plan = self.order.plan(epoch)
        return self.epochs.passes_read(epoch, epoch - self.first_epoch, plan.order[: plan.bounds[index]])
