"""What the loop minimises. Every room that trains brings its own objective; the loop knows only this interface."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor, nn

from biomlm.model.encoder import MaskedLM
from biomlm.model.kernels.cross_entropy import NO_LABEL
from biomlm.pretrain.data.batches import Batch


@dataclass(frozen=True)
class LossDenominators:
    """What a step's losses are divided by, over all its micro-batches (and processes).

    Args:
        masked: Predicted positions.
        tokens: Real tokens.
        pairs: Pairs with a label.
    """

    masked: int
    tokens: int
    pairs: int = 1

    @staticmethod
    def of(batches: list[Batch]) -> "LossDenominators":
        """Count micro-batches; whoever divides by a sum of these takes 1 for 0."""
        masked = sum(len(batch.labels_m) for batch in batches)
        pairs = sum(int((b.pair_labels_b != NO_LABEL).sum()) for b in batches if b.pair_labels_b is not None)
        return LossDenominators(masked, sum(len(batch.packed.input_ids_t) for batch in batches), pairs)


class Objective(nn.Module, ABC):
    """A loss with, if need be, parameters of its own (a projection), which are trained and saved with the model."""

    scale = 1.0  # what the engine multiplies losses by before their backward pass: of fp16, and the number of ranks
    reads_all_rows = True  # of the last hidden state, not only those of predicted positions and first tokens

    @abstractmethod
    def forward(self, model: MaskedLM, batch: Batch, totals: LossDenominators) -> dict[str, Tensor]:
        """Compute this micro-batch's share of the step's means.

        Returns:
            Named scalars to be summed over the step's micro-batches; `loss` is the one that is minimised.
        """

    @abstractmethod
    def over(self, term: str) -> Collection[str]:
        """Name the fields of `LossDenominators` that a term is a mean over; a step where one of them is 0 does not log the term."""
