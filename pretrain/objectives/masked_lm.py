"""Masked language modelling (Devlin et al. 2019, arXiv 1810.04805); `pretrain.data.masking` chooses the masks."""

from collections.abc import Sequence

from torch import Tensor

from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.objectives.term import Term


class MaskedLMTerm(Term):
    """Cross-entropy (nats) of the hidden tokens, and the share of them that is predicted exactly."""

    @property
    def figures(self) -> Sequence[str]:
        """See `Term.figures`."""
        return (self.name, "accuracy")

    def rows(self, batch: Batch) -> Tensor:
        """See `Term.rows`."""
        return batch.positions_m

    def forward(self, model: MaskedLM, states_rh: Tensor, batch: Batch, slope: float) -> Sequence[Tensor]:
        """See `Term.forward`."""
        return model.masked_loss(states_rh, batch.labels_m, slope)
