"""A batch as a pure function of (configuration, shards, seed, step).

Nothing here has state that a checkpoint would have to hold: any process can make any step's micro-batches at any time, and gets
the same tokens, order and masks.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from biomlm.core import rng
from biomlm.core.errors import DataError
from biomlm.model.packed import Packed
from biomlm.pretrain.config import BatchConfig, MixConfig, MlmConfig, PairKind
from biomlm.pretrain.data.collate import collate
from biomlm.pretrain.data.dataset import Shards, Tokens, check_ids
from biomlm.pretrain.data.masking import choose, corrupt, mask_epoch, ordinary, rate_at, wanted
from biomlm.pretrain.data.mixture import Epoch, Mixture, Sources, join
from biomlm.pretrain.data.sequence_builder import sequence_builder
from biomlm.pretrain.data.sequences import EpochPlan, micro_batches_per_epoch, passes_to_join, plan_epoch

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
    """

    packed: Packed
    positions_m: Tensor
    labels_m: Tensor
    epoch: int = 0
    index: int = 0
    step: int = 0
    places_m: I64 | None = None
    pair_labels_b: Tensor | None = None

    def pin(self) -> "Batch":
        """Return the same micro-batch in page-locked memory, which a GPU copies from asynchronously."""
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
        """Return the same micro-batch on another device."""
        return replace(
            self,
            packed=self.packed.to(device),
            positions_m=self.positions_m.to(device, non_blocking=True),
            labels_m=self.labels_m.to(device, non_blocking=True),
            pair_labels_b=None if self.pair_labels_b is None else self.pair_labels_b.to(device, non_blocking=True),
        )


class Batches:
    """The micro-batches of one split, of sequences of one length: a stage of a run (see `pretrain.data.curriculum`), or all of it.

    Args:
        reader: The split's shards.
        mlm: What is masked.
        batch: Sizes.
        seed: Of order and masks.
        pair: The pair objective, if there is one.
        segments: Whether the model has token types, which decides on a pair's special tokens.
        mix: How sources are mixed.
        first_step: Of the stage.
        first_epoch: Of the stage: the epochs before it belong to earlier ones.
        steps: Of the run, over which the masking rate may change.
        join: Join passes over the shards to one epoch where a single one cannot be cut into steps of nearly the size that is asked for.
    """

    def __init__(
        self,
        reader: Shards,
        mlm: MlmConfig,
        batch: BatchConfig,
        seed: int,
        pair: PairKind | None = None,
        segments: bool = False,
        mix: MixConfig | None = None,
        first_step: int = 0,
        first_epoch: int = 0,
        steps: int = 1,
        *,
        join: bool = False,
    ):
        self.reader, self.mlm, self.batch, self.seed, self.segments = reader, mlm, batch, seed, segments
        self.first_step, self.first_epoch, self.steps = first_step, first_epoch, steps
        self.ahead = 0  # steps of the plan that were stepped over, or that an earlier run has read
        self.pos, self.wanted = self._parts_of_speech(), wanted(mlm)
        self.pieces = ordinary(reader.tokenizer.ids, reader.vocab_size)
        mixed = mix is not None and mix.active
        by = "source" if mix is None else mix.by
        sources = Sources.read(reader, by) if mixed or pair in ("nsp", "drp") else None
        of_document = None if sources is None else sources.of_document
        build = sequence_builder(reader, batch, pair, segments, of_document, apart=mixed)
        # With static masks, pairs come round again with them.
        self.sequences_of = lru_cache(maxsize=2)(lambda number: build(rng.key(seed, "pairs", mask_epoch(mlm, number))))
        self.mixture = Mixture(self.sequences_of, sources, mix, seed) if mix and sources and mixed else None
        self.plan = lru_cache(maxsize=2)(self._plan)
        self.epoch = lru_cache(maxsize=2)(self._epoch)
        self.joined = 1  # passes in an epoch
        # Of one pass, special tokens of sequences included; with pairs, of the first one, and the others are about as long.
        self.tokens_per_epoch = int(self.epoch(0).sequences.tokens.sum())
        if join and (joined := passes_to_join(self.tokens_per_epoch, batch.tokens * batch.accumulation)) > 1:
            self.joined = joined
            self.epoch.cache_clear()
        self.per_epoch = micro_batches_per_epoch(self.epoch(0).sequences, batch.tokens, batch.accumulation)
        self.tokens_per_step = self.joined * self.tokens_per_epoch / self.steps_per_epoch

    def _parts_of_speech(self) -> Tokens | None:
        """Return the part of speech of every token, if masks depend on it.

        Raises:
            DataError: The shards have none.
        """
        if not self.mlm.pos:
            return None
        if self.reader.pos is None:
            raise DataError(
                "mlm.pos needs parts of speech, and the shards were encoded without",
                file=self.reader.folder,
                remedy="Encode the documents again with `biomlm tokenizer encode --pos en_core_web_sm`.",
            )
        return self.reader.pos

    def _may(self, places_t: I64) -> npt.NDArray[np.bool_] | None:
        """Tell which tokens may be masked, where that depends on parts of speech; special tokens never are."""
        if self.pos is None:
            return None
        return np.isin(self.pos[np.maximum(places_t, 0)], self.wanted)

    def _epoch(self, epoch: int) -> Epoch:
        return join([self._pass(epoch * self.joined + i) for i in range(self.joined)])

    def _pass(self, number: int) -> Epoch:
        if self.mixture is not None:
            return self.mixture(number)
        sequences = self.sequences_of(number)
        return Epoch(sequences, np.full(len(sequences), number))

    def _plan(self, epoch: int) -> EpochPlan:
        return plan_epoch(self.epoch(epoch).sequences, self.per_epoch, self.seed, epoch)

    @property
    def steps_per_epoch(self) -> int:
        """The number of optimiser steps of one epoch."""
        return self.per_epoch // self.batch.accumulation

    def work(self, steps: int) -> float:
        """See `Curriculum.work`."""
        return steps * self.tokens_per_step

    def stage(self, _: int) -> "Batches":
        """See `Curriculum.stage`: all steps are of this one."""
        return self

    def names(self, step: int) -> list[tuple[int, int]]:
        """List the epoch and index of each micro-batch of an optimiser step, counted from 0."""
        return self._planned(step - self.first_step + self.ahead)

    def _planned(self, step: int) -> list[tuple[int, int]]:
        """List the same for a step of the stage's plan, counted from 0."""
        first = step * self.batch.accumulation
        numbers = (divmod(first + i, self.per_epoch) for i in range(self.batch.accumulation))
        return [(self.first_epoch + epoch, index) for epoch, index in numbers]

    def passes_by(self, epoch: int) -> int:
        """Return a number of passes that no source has begun before the end of an epoch."""
        passes = (epoch + 1) * self.joined
        return passes if self.mixture is None else math.ceil(passes * max(self.mixture.passes.values()))

    def epoch_behind(self, passes: int) -> int:
        """Return the first epoch that belongs to no earlier pass over any source."""
        least = 1.0 if self.mixture is None else min(filter(None, self.mixture.passes.values()))
        return math.ceil(passes / (least * self.joined))

    def step(self, step: int) -> list[Batch]:
        """Make all micro-batches of an optimiser step, counted from 0; empty ones (a tiny corpus) are left out."""
        micro_batches = [self.micro_batch(*name) for name in self.names(step)]
        return [batch for batch in micro_batches if batch is not None]

    def passes(self, step: int) -> dict[str, float]:
        """Count how often this stage has read each mixed source before a step, if nothing was stepped over."""
        if self.mixture is None:
            return {}
        epoch, index = self._planned(step - self.first_step)[0]
        plan = self.plan(epoch)
        read = plan.order[: plan.bounds[index]]
        passes = self.mixture.passes_read(self.epoch(epoch), epoch - self.first_epoch, read)
        return {name: count * self.joined for name, count in passes.items()}

    def micro_batch(self, epoch: int, index: int, most: int | None = None) -> Batch | None:
        """Make one micro-batch of an epoch, or its first sequences; None where the corpus has fewer sequences than micro-batches."""
        sequences, numbers = self.epoch(epoch).sequences, self.plan(epoch).micro_batch(index)[:most]
        if not len(numbers):
            return None
        row = collate(sequences, numbers, self.reader.tokens, self.reader.tokenizer.ids, self.segments)
        ids_t, places_t = row.ids_t, row.places_t
        check_ids(self.reader, ids_t, places_t)
        # A token is masked by its place and the pass over its source, so two copies of a sequence in a batch are masked apart.
        reading_t = np.repeat(mask_epoch(self.mlm, self.epoch(epoch).passes[numbers]), row.lengths)
        draws_t = np.where(places_t < 0, places_t, places_t + reading_t * len(self.reader.tokens))
        key = rng.key(self.seed, "mask")
        starts_word_t = self.reader.tokenizer.is_word_start[ids_t]
        planned = ((epoch - self.first_epoch) * self.per_epoch + index) // self.batch.accumulation
        step = self.first_step + planned - self.ahead
        rate = rate_at(self.mlm, step / self.steps)
        positions_m = choose(self.mlm, draws_t, starts_word_t, row.lengths, key, rate, self._may(places_t))
        mask_id = self.reader.tokenizer.ids.mask
        corrupted_t = corrupt(self.mlm, ids_t, positions_m, draws_t, key, mask_id, self.pieces)
        types_t = torch.from_numpy(row.types_t) if self.segments and row.types_t.any() else None
        packed = Packed(torch.from_numpy(corrupted_t), tuple(row.lengths.tolist()), types_t)
        labels_m = torch.from_numpy(ids_t[positions_m])
        paired = sequences.start.shape[1] > 1
        pair_labels_b = torch.from_numpy(sequences.labels[numbers]) if paired else None
        places_m = places_t[positions_m]
        return Batch(packed, torch.from_numpy(positions_m), labels_m, epoch, index, step, places_m, pair_labels_b)
