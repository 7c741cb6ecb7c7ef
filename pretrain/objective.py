"""What the loop minimises. Distillation brings its own objective; the loop knows only this interface."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from biolm.model.encoder import MaskedLM
from biolm.pretrain.batches import Batch


@dataclass(frozen=True)
class Totals:
    """What a step's losses are divided by, over all its micro-batches (and processes).

    Args:
        masked: Predicted positions.
        tokens: Real tokens.
    """

    masked: int
    tokens: int

    @staticmethod
    def of(batches: list[Batch]) -> "Totals":
        """Count a step's micro-batches."""
        masked = sum(len(batch.labels_m) for batch in batches)
        return Totals(max(masked, 1), sum(len(batch.packed.input_ids_t) for batch in batches))


class Objective(nn.Module, ABC):
    """A loss with, if need be, parameters of its own (a projection), which are trained and saved with the model."""

    @abstractmethod
    def forward(self, model: MaskedLM, batch: Batch, totals: Totals) -> dict[str, Tensor]:
        """This micro-batch's share of the step's means.

        Returns:
            Named scalars that add up over the step's micro-batches; `loss` is the one that is minimised.
        """


class MlmObjective(Objective):
    """Cross-entropy at the masked positions (arXiv 1810.04805)."""

    def forward(self, model: MaskedLM, batch: Batch, totals: Totals) -> dict[str, Tensor]:
        """See `Objective.forward`."""
        logits_mv = model(batch.packed, batch.positions_m)
        return mlm_terms(logits_mv, batch.labels_m, totals)


def mlm_terms(logits_mv: Tensor, labels_m: Tensor, totals: Totals) -> dict[str, Tensor]:
    """Cross-entropy (nats) and accuracy at the masked positions, as shares of the step's means; logits [m, v], labels [m]."""
    loss = F.cross_entropy(logits_mv.float(), labels_m, reduction="sum") / totals.masked
    scores_mv = logits_mv.detach()
    best_m = scores_mv.amax(-1)  # on a CPU 19 times as fast as argmax, which took a tenth of a small step
    accuracy = (scores_mv.gather(1, labels_m[:, None])[:, 0] == best_m).sum() / totals.masked
    return {"loss": loss, "accuracy": accuracy}
