"""Telling pairs of segments apart by the state of their first token; `pretrain.data.segment_pairs` makes the pairs."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.kernels.cross_entropy import NO_LABEL
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.objectives.config import PAIRINGS
from biomlm.pretrain.objectives.term import Term, first_tokens


class Pooler(nn.Module):
    """What a pair is known by: tanh of a dense layer on the first token's state (Devlin et al. 2019)."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_bh: Tensor) -> Tensor:
        """Compute [b, h] → [b, h]."""
        return torch.tanh(self.dense(hidden_bh))


class PairTerm(Term):
    """Cross-entropy (nats) of the pairs' labels, and the share of them that is predicted rightly.

    Pooler and classifier are named as in Hugging Face's `bert.pooler` and `cls.seq_relationship`, as which `convert` writes them.
    """

    over = "pairs"

    def __init__(self, name: str, encoder: EncoderConfig):
        super().__init__(name, encoder)
        self.labels = tuple(PAIRINGS[name].origins)
        self.pooler = Pooler(encoder.hidden_size)
        self.seq_relationship = nn.Linear(encoder.hidden_size, len(self.labels))
        for layer in (self.pooler.dense, self.seq_relationship):
            nn.init.normal_(layer.weight, std=encoder.initializer_range)
            nn.init.zeros_(layer.bias)

    @property
    def figures(self) -> Sequence[str]:
        """See `Term.figures`."""
        return (self.name, f"{self.name}_accuracy")

    def rows(self, batch: Batch) -> Tensor:
        """See `Term.rows`."""
        return first_tokens(batch)

    def forward(self, model: MaskedLM, states_rh: Tensor, batch: Batch, slope: float) -> Sequence[Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        labels_b = batch.pair_labels_b
        assert labels_b is not None
        scores_bc = self.seq_relationship(self.pooler(states_rh)).float()
        loss = F.cross_entropy(scores_bc, labels_b, ignore_index=NO_LABEL, reduction="sum")
        return loss, (scores_bc.detach().argmax(-1) == labels_b).sum()

    @property
    def kinds(self) -> Sequence[str]:
        """See `Term.kinds`: the labels, whose shares are not training's where few held-out documents are linked to each other."""
        return [f"{self.name}_share_{label}" for label in self.labels]

    def counts(self, batch: Batch) -> Sequence[int]:
        """See `Term.counts`."""
        assert batch.pair_labels_b is not None
        return [int((batch.pair_labels_b == number).sum()) for number in range(len(self.labels))]
