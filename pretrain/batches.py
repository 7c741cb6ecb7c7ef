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
from biolm.core.errors import DataError
from biolm.model.packed import Packed
from biolm.pretrain.config import BatchConfig, MlmConfig
from biolm.pretrain.masking import choose, corrupt, mask_epoch
from biolm.pretrain.sequences import SPECIALS, EpochPlan, Sequences, form_sequences, micro_batches_per_epoch, plan_epoch
from biolm.tokenizer.shards import ShardReader

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
    """

    packed: Packed
    positions_m: Tensor
    labels_m: Tensor
    epoch: int = 0
    index: int = 0
    places_m: I64 | None = None

    def pin(self) -> "Batch":
        """The same micro-batch in page-locked memory, from which a GPU copies by itself."""
        ids_t, types_t = self.packed.input_ids_t.pin_memory(), self.packed.token_type_ids_t
        types_t = None if types_t is None else types_t.pin_memory()
        packed = Packed(ids_t, self.packed.lengths, types_t)
        return replace(
            self, packed=packed, positions_m=self.positions_m.pin_memory(), labels_m=self.labels_m.pin_memory()
        )

    def to(self, device: torch.device) -> "Batch":
        """The same micro-batch on another device."""
        return replace(
            self,
            packed=self.packed.to(device),
            positions_m=self.positions_m.to(device, non_blocking=True),
            labels_m=self.labels_m.to(device, non_blocking=True),
        )


class Batches:
    """The micro-batches of one split.

    Args:
        reader: The split's shards.
        mlm: What is masked.
        batch: Sizes.
        seed: Of order and masks.
    """

    def __init__(self, reader: ShardReader, mlm: MlmConfig, batch: BatchConfig, seed: int):
        self.reader, self.mlm, self.batch, self.seed = reader, mlm, batch, seed
        self.sequences: Sequences = form_sequences(reader.sizes, reader.doc_index, batch.max_length)
        if not len(self.sequences):
            raise DataError("the shards hold no tokens", file=reader.folder, remedy="Encode a larger corpus.")
        self.per_epoch = micro_batches_per_epoch(self.sequences, batch.tokens, batch.accumulation)
        self.plan = lru_cache(maxsize=2)(self._plan)

    def _plan(self, epoch: int) -> EpochPlan:
        return plan_epoch(self.sequences, self.per_epoch, self.seed, epoch)

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of one pass, `<s>` and `</s>` of sequences included."""
        return int(self.sequences.length.sum()) + SPECIALS * len(self.sequences)

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
        ids_t, places_t, lengths = self._tokens(self.plan(epoch).micro_batch(index))
        if not lengths:
            return None
        if ids_t.max() >= self.reader.vocab_size:
            place = int(places_t[ids_t.argmax()])
            raise DataError(
                f"id {ids_t.max()} is beyond the vocabulary of {self.reader.vocab_size}",
                file=self.reader.folder / f"{self.reader.split}.bin",
                record=f"token {place}",
                remedy="The shards are damaged or of another tokenizer: encode the documents again.",
            )
        key = rng.key(self.seed, "mask", mask_epoch(self.mlm, epoch))
        starts_word_t = self.reader.tokenizer.is_word_start[ids_t]
        positions_m = choose(self.mlm, places_t, starts_word_t, np.array(lengths), key)
        special = self.reader.tokenizer.ids
        pieces = (1 + max(special.bos, special.pad, special.eos, special.unk), self.reader.vocab_size - 1)
        corrupted_t = corrupt(self.mlm, ids_t, positions_m, places_t, key, special.mask, pieces)
        packed = Packed(torch.from_numpy(corrupted_t), tuple(lengths))
        labels_m = torch.from_numpy(ids_t[positions_m])
        return Batch(packed, torch.from_numpy(positions_m), labels_m, epoch, index, places_t[positions_m])

    def _tokens(self, numbers: I64) -> tuple[I64, I64, list[int]]:
        """Token ids with `<s>` and `</s>`, each token's place in the shard (-1 for the two), and lengths."""
        bos, eos = self.reader.tokenizer.ids.bos, self.reader.tokenizer.ids.eos
        first, last, nowhere = np.array([bos]), np.array([eos]), np.array([-1])
        ids, places, lengths = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], []
        for number in numbers:
            start, stop = int(self.sequences.start[number]), int(self.sequences.stop[number])
            raw = self.reader.tokens[start:stop].astype(np.int64)
            inside = np.flatnonzero(raw != eos)
            ids += [first, raw[inside], last]
            places += [nowhere, start + inside, nowhere]
            lengths.append(len(inside) + SPECIALS)
        return np.concatenate(ids), np.concatenate(places), lengths
