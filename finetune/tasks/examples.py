"""What the model reads at once, and the batches it is put in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from biomlm.model.packed import Packed, pack


@dataclass(frozen=True)
class Example:
    """Sequences that are scored together (one, or one for each choice) and the places in them that are labelled.

    Args:
        sequences: Token ids with the special ones.
        positions: Places that the head reads, in the sequences laid end to end, ascending.
        targets: What it should output there: a number each, or a row of numbers each.
        segments: For each sequence its tokens' segments, 0 or 1, where the model has such; else nothing.
    """

    sequences: list[list[int]]
    positions: list[int]
    targets: list[Any]
    segments: list[list[int]] = field(default_factory=list)

    @cached_property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(len(ids) for ids in self.sequences)


@dataclass(frozen=True)
class Batch:
    """Examples laid end to end.

    Args:
        packed: Their tokens.
        positions_m: Where the head reads, in the flat row.
        targets_m: What it should output there: [m] or [m, k].
    """

    packed: Packed
    positions_m: Tensor
    targets_m: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Move the batch to a device."""
        return Batch(self.packed.to(device), self.positions_m.to(device), self.targets_m.to(device))


def collate(examples: Sequence[Example]) -> Batch:
    """Lay examples end to end."""
    positions: list[int] = []
    start = 0
    for example in examples:
        positions += [start + place for place in example.positions]
        start += example.tokens
    targets = [target for example in examples for target in example.targets]
    packed = pack([ids for example in examples for ids in example.sequences])
    types = [kind for example in examples for row in example.segments for kind in row]
    if types:
        packed = Packed(packed.input_ids_t, packed.lengths, torch.tensor(types))
    return Batch(packed, torch.tensor(positions), torch.tensor(targets))


def by_length(examples: Sequence[Example], indices: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Group examples of like length, longest first, at most `tokens` tokens in a group unless one alone has more."""
    group: list[int] = []
    held = 0
    for i in sorted(indices, key=lambda i: -examples[i].tokens):
        if group and held + examples[i].tokens > tokens:
            yield group
            group, held = [], 0
        group.append(i)
        held += examples[i].tokens
    if group:
        yield group
