"""The micro-batches of a training fold, as the loop asks for them: functions of (data, configuration, seed, step)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from biomlm.core import rng
from biomlm.finetune.config import BatchConfig
from biomlm.finetune.tasks.examples import Example, by_length, collate
from biomlm.model.packed import Packed
from biomlm.training.batches import Name
from biomlm.training.objective import LossDenominators


@dataclass(frozen=True, kw_only=True)
class TaskBatch:
    """A micro-batch of examples (see `training.objective.MicroBatch`).

    Args:
        examples: What it is made of, by which it can be cut.
        packed: Their tokens.
        positions_m: Where the head reads, in the flat row.
        targets_m: What it should output there: [m] or [m, k].
        name: The step of the plan, and behind it the number of a part that is not the first.
    """

    examples: Sequence[Example]
    packed: Packed
    positions_m: Tensor
    targets_m: Tensor
    name: Name

    @staticmethod
    def of(examples: Sequence[Example], name: Name) -> "TaskBatch":
        """Lay examples end to end."""
        batch = collate(examples)
        return TaskBatch(
            examples=examples, packed=batch.packed, positions_m=batch.positions_m, targets_m=batch.targets_m, name=name
        )

    predicted = 0  # the masked-LM head does not run

    @property
    def rows(self) -> int:
        """See `MicroBatch`."""
        return len(self.positions_m)

    @property
    def pieces(self) -> int:
        """See `MicroBatch`: its examples."""
        return len(self.examples)

    def denominators(self) -> LossDenominators:
        """See `MicroBatch`."""
        return LossDenominators(masked=len(self.targets_m), tokens=len(self.packed.input_ids_t), pairs=0)

    def shown(self) -> tuple[Tensor | None, ...]:
        """See `MicroBatch`."""
        return self.packed.input_ids_t, self.packed.token_type_ids_t, self.positions_m, self.targets_m

    def first(self, pieces: int) -> "TaskBatch":
        """See `MicroBatch`."""
        return TaskBatch.of(self.examples[:pieces], self.name)

    def pin(self) -> "TaskBatch":
        """See `MicroBatch`."""
        return replace(
            self,
            packed=self.packed.pin(),
            positions_m=self.positions_m.pin_memory(),
            targets_m=self.targets_m.pin_memory(),
        )

    def to(self, device: torch.device) -> "TaskBatch":
        """See `MicroBatch`."""
        return replace(
            self,
            packed=self.packed.to(device),
            positions_m=self.positions_m.to(device, non_blocking=True),
            targets_m=self.targets_m.to(device, non_blocking=True),
        )


class FoldBatches:
    """A training fold in a seeded order, every example once an epoch (see `training.batches.Batches`).

    Args:
        examples: Of all records.
        config: Sizes.
        seed: Of the order.
    """

    def __init__(self, examples: Sequence[Example], config: BatchConfig, seed: int):
        self.examples, self.config, self.seed = examples, config, seed
        self.per_epoch = -(-len(examples) // config.size)
        self.tokens = sum(example.tokens for example in examples)
        self.ahead = 0  # steps of the plan that were stepped over
        self._order = lru_cache(maxsize=2)(lambda epoch: rng.permutation(rng.key(seed, "order", epoch), len(examples)))
        self._parts = lru_cache(maxsize=2)(self._divide)

    def names(self, step: int) -> list[Name]:
        """See `NamedBatches`."""
        planned = step + self.ahead
        return [(planned, part)[: 1 + (part > 0)] for part in range(len(self._parts(planned)))]

    def make(self, name: Name) -> TaskBatch:
        """See `NamedBatches`."""
        planned, part = (*name, 0)[:2]
        return TaskBatch.of([self.examples[i] for i in self._parts(planned)[part]], name)

    def _divide(self, planned: int) -> list[list[int]]:
        """Divide a step's examples into micro-batches of like length: `accumulation` of about equal tokens, or more where `tokens` asks."""
        epoch, index = divmod(planned, self.per_epoch)
        step = self._order(epoch)[index * self.config.size : (index + 1) * self.config.size].tolist()
        step.sort(key=lambda i: -self.examples[i].tokens)
        total, before, share = sum(self.examples[i].tokens for i in step), 0, {}
        for i in step:
            share[i] = before * self.config.accumulation // total
            before += self.examples[i].tokens
        shares = [list(part) for _, part in groupby(step, key=lambda i: share[i])]
        return [group for part in shares for group in by_length(self.examples, part, self.config.tokens)]

    def work(self, steps: int) -> float:
        """See `Batches`."""
        return steps * self.tokens / self.per_epoch

    def sizes(self, _: int) -> str:
        """See `Batches`: they are the same in all steps, so nothing is said."""
        return ""

    def title(self, name: Name) -> str:
        """See `Batches`."""
        epoch, index = divmod(name[0], self.per_epoch)
        part = f"part {name[1] + 1} of " if len(name) > 1 else ""
        return f"{part}step {index + 1} of epoch {epoch + 1}"

    def smaller(self, _: int, fitting: int) -> str:
        """See `Batches`."""
        if fitting >= max(example.tokens for example in self.examples):
            return f"Give --batch.tokens {fitting}: the same step in smaller parts."
        return "Lower --batch.tokens or --batch.max_length, or take a smaller model; the last checkpoint is whole."

    def place(self, _: int) -> dict[str, Any]:
        """See `Batches`."""
        return {"ahead": self.ahead}

    def resume(self, _: int, place: Mapping[str, Any]) -> None:
        """See `Batches`."""
        self.ahead = place["ahead"]

    def step_over(self, _: int, steps: int) -> None:
        """See `Batches`."""
        self.ahead += steps
