"""What the loop minimises. Distillation brings its own objective; the loop knows only this interface."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.kernels.cross_entropy import NO_LABEL
from biomlm.pretrain.config import ObjectiveConfig
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.data.segment_pairs import CLASSES


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


class Pooler(nn.Module):
    """What a pair is known by: tanh of a dense layer on the first token's state (Devlin et al. 2019)."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_bh: Tensor) -> Tensor:
        """Compute [b, h] → [b, h]."""
        return torch.tanh(self.dense(hidden_bh))


def first_tokens(batch: Batch) -> Tensor:
    """Return the rows of the sequences' first tokens, [b]."""
    return batch.packed.cu_seqlens[:-1].long()


class PretrainObjective(Objective):
    """The masked-LM loss, and that of a pair objective, each by its weight.

    Pooler and classifier are the objective's, not the model's: they are saved beside it, and `convert` carries them as Hugging Face's
    `bert.pooler` and `cls.seq_relationship`.

    Args:
        config: Weights.
        encoder: Shape of the model.
    """

    reads_all_rows = False

    def __init__(self, config: ObjectiveConfig, encoder: EncoderConfig):
        super().__init__()
        self.config = config
        if config.pair is not None:
            self.pooler = Pooler(encoder.hidden_size)
            self.seq_relationship = nn.Linear(encoder.hidden_size, CLASSES[config.pair])
            for layer in (self.pooler.dense, self.seq_relationship):
                nn.init.normal_(layer.weight, std=encoder.initializer_range)
                nn.init.zeros_(layer.bias)

    def take(self, rest: Mapping[str, Tensor]) -> list[str]:
        """Start from another model's pooler and classifier (`Loaded.extra_tensors`); the names of the tensors that it has and that fit."""
        own = dict(self.named_parameters())
        fitting = [name for name, tensor in rest.items() if name in own and own[name].shape == tensor.shape]
        with torch.no_grad():
            for name in fitting:
                own[name].copy_(rest[name])
        return fitting

    def forward(self, model: MaskedLM, batch: Batch, totals: LossDenominators) -> dict[str, Tensor]:
        """See `Objective.forward`; `accuracy` is that at masked positions, and each part's own loss goes by the part's name."""
        masked, pairs = len(batch.positions_m), self.config.pair is not None
        rows = torch.cat([batch.positions_m, first_tokens(batch)]) if pairs else batch.positions_m
        hidden_mh = model.encoder(batch.packed, rows)[-1]
        slope = self.config.mlm * self.scale / totals.masked
        total, right = model.masked_loss(hidden_mh[:masked], batch.labels_m, slope)
        terms = {"loss": total / totals.masked, "accuracy": right / totals.masked}
        loss = self.config.mlm * terms["loss"]
        if self.config.pair is None:
            return {**terms, "loss": loss}
        parts = self.pair_terms(hidden_mh[masked:], batch, totals)
        weight: float = getattr(self.config, self.config.pair)
        return {**terms, **parts, "mlm": terms["loss"], "loss": loss + weight * parts[self.config.pair]}

    def over(self, term: str) -> Collection[str]:
        """See `Objective.over`."""
        if self.config.pair is None or term in ("mlm", "accuracy"):
            return ("masked",)
        return ("masked", "pairs") if term == "loss" else ("pairs",)

    def pair_terms(self, hidden_bh: Tensor, batch: Batch, totals: LossDenominators) -> dict[str, Tensor]:
        """Compute cross-entropy (nats) and accuracy of the pairs, as shares of the step's means.

        Args:
            hidden_bh: Last hidden states of the `first_tokens`.
            batch: With labels of pairs.
            totals: What the sums are divided by.
        """
        kind, labels_b = self.config.pair, batch.pair_labels_b
        assert kind is not None
        assert labels_b is not None
        scores_bc = self.seq_relationship(self.pooler(hidden_bh)).float()
        loss = F.cross_entropy(scores_bc, labels_b, ignore_index=NO_LABEL, reduction="sum")
        right = (scores_bc.detach().argmax(-1) == labels_b).sum()
        return {kind: loss / totals.pairs, f"{kind}_accuracy": right / totals.pairs}
