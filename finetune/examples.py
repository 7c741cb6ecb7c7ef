"""What the model reads at once, and the batches it is put in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from biolm.core import rng
from biolm.finetune.config import BatchConfig
from biolm.model.packed import Packed, pack


@dataclass(frozen=True)
class Example:
    """One sequence of tokens and the places in it that are labelled.

    Args:
        ids: Token ids with the special ones.
        positions: Places of `ids` that the head reads, ascending.
        targets: A label for each of them.
    """

    ids: list[int]
    positions: list[int]
    targets: list[int]


@dataclass(frozen=True)
class Batch:
    """Examples laid end to end.

    Args:
        packed: Their tokens.
        positions_m: Where the head reads, in the flat row.
        targets_m: The labels there.
    """

    packed: Packed
    positions_m: Tensor
    targets_m: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(self.packed.to(device), self.positions_m.to(device), self.targets_m.to(device))


def collate(examples: Sequence[Example]) -> Batch:
    """Lay examples end to end."""
    positions: list[int] = []
    start = 0
    for example in examples:
        positions += [start + place for place in example.positions]
        start += len(example.ids)
    targets = [target for example in examples for target in example.targets]
    return Batch(pack([e.ids for e in examples]), torch.tensor(positions), torch.tensor(targets))


def epoch_steps(examples: Sequence[Example], config: BatchConfig, seed: int, epoch: int) -> Iterator[list[Batch]]:
    """One epoch in a seeded order: for each optimiser step its batches, of at most `config.tokens` tokens each."""
    order = rng.permutation(rng.key(seed, "order", epoch), len(examples))
    for start in range(0, len(order), config.size):
        step = order[start : start + config.size].tolist()
        yield [collate([examples[i] for i in group]) for group in by_length(examples, step, config.tokens)]


def by_length(examples: Sequence[Example], indices: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Group examples of like length, longest first, at most `tokens` tokens in a group unless one alone has more."""
    group: list[int] = []
    held = 0
    for i in sorted(indices, key=lambda i: -len(examples[i].ids)):
        if group and held + len(examples[i].ids) > tokens:
            yield group
            group, held = [], 0
        group.append(i)
        held += len(examples[i].ids)
    if group:
        yield group


def steps_per_epoch(examples: Sequence[Example], config: BatchConfig) -> int:
    """Optimiser steps in an epoch."""
    return -(-len(examples) // config.size)
