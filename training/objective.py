"""What the loop minimises. Every room that trains brings its own objective; the loop knows only this interface."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import astuple, dataclass
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from biomlm.model.encoder import EncoderModel
from biomlm.model.packed import Packed


@dataclass(frozen=True)
class LossDenominators:
    """What a step's losses are divided by, over all its micro-batches (and processes).

    Args:
        masked: Positions with a label: masked tokens, or what a task labels.
        tokens: Real tokens.
        pairs: Pairs with a label.
    """

    masked: int
    tokens: int
    pairs: int = 1

    @staticmethod
    def of(batches: Iterable["MicroBatch"]) -> "LossDenominators":
        """Sum those of micro-batches; whoever divides by a sum of these takes 1 for 0."""
        counts = [astuple(batch.denominators()) for batch in batches]
        return LossDenominators(*map(sum, zip(*counts, strict=True))) if counts else LossDenominators(0, 0, 0)


class MicroBatch(Protocol):
    """What loop and engines need to know of a micro-batch."""

    @property
    def packed(self) -> Packed:
        """Its sequences."""

    @property
    def name(self) -> tuple[int, ...]:
        """What names it in the run, on any number of processes: dropout follows from it."""

    @property
    def predicted(self) -> int:
        """Rows that the masked-LM head runs on."""

    @property
    def rows(self) -> int:
        """Rows of the last hidden state that an objective reads which does not read all."""

    @property
    def pieces(self) -> int:
        """What it can be cut into, see `first`."""

    def denominators(self) -> LossDenominators:
        """Count what its losses are means over."""

    def shown(self) -> tuple[Tensor | None, ...]:
        """List all that it shows a model and asks of it."""

    def first(self, pieces: int) -> Self:
        """Return a smaller micro-batch, of its first pieces."""

    def pin(self) -> Self:
        """Return the same micro-batch in page-locked memory, which a GPU copies from asynchronously."""

    def to(self, device: torch.device) -> Self:
        """Return the same micro-batch on another device."""


M = TypeVar("M", bound=EncoderModel)
B = TypeVar("B", bound=MicroBatch)


class Objective(nn.Module, ABC, Generic[M, B]):
    """A loss with, if need be, parameters of its own (a projection), which are trained and saved with the model."""

    scale = 1.0  # what the engine multiplies losses by before their backward pass: of fp16, and the number of ranks
    reads_all_rows = True  # of the last hidden state, not only those of predicted positions and first tokens

    @abstractmethod
    def forward(self, model: M, batch: B, totals: LossDenominators) -> dict[str, Tensor]:
        """Compute this micro-batch's share of the step's means.

        Returns:
            Named scalars to be summed over the step's micro-batches; `loss` is the one that is minimised.
        """

    @abstractmethod
    def over(self, term: str) -> Collection[str]:
        """Name the fields of `LossDenominators` that a term is a mean over; a step where one of them is 0 does not log the term."""
