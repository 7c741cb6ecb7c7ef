"""What pretraining minimises: masked language modelling, and with it one of the pair objectives."""

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.kernels.cross_entropy import NO_LABEL
from biomlm.pretrain.config import ObjectiveConfig
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.data.segment_pairs import CLASSES
from biomlm.training.objective import LossDenominators, Objective


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
