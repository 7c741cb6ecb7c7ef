"""What pretraining minimises: the objectives of `ObjectiveConfig`, each by its weight."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.objectives.config import OBJECTIVES, ObjectiveConfig
from biomlm.pretrain.objectives.term import Term
from biomlm.training.objective import LossDenominators, Objective


class PretrainObjective(Objective[MaskedLM, Batch]):
    """The weighted sum of the terms that have a weight.

    Args:
        config: Weights.
        encoder: Shape of the model.
    """

    reads_all_rows = False

    def __init__(self, config: ObjectiveConfig, encoder: EncoderConfig):
        super().__init__()
        self.config = config
        self.terms: tuple[Term, ...] = tuple(OBJECTIVES[name].load()(name, encoder) for name in config.weights)
        for term in self.terms:  # whose layers are saved under their own names
            for name, layer in term.named_children():
                assert name not in self._modules, f"two terms have layers named {name}"
                self.add_module(name, layer)

    def take(self, rest: Mapping[str, Tensor]) -> list[str]:
        """Start from another model's layers (`Loaded.extra_tensors`); the names of the tensors that it has and that fit."""
        own = dict(self.named_parameters())
        fitting = [name for name, tensor in rest.items() if name in own and own[name].shape == tensor.shape]
        with torch.no_grad():
            for name in fitting:
                own[name].copy_(rest[name])
        return fitting

    def forward(self, model: MaskedLM, batch: Batch, totals: LossDenominators) -> dict[str, Tensor]:
        """See `Objective.forward`; a term's own loss is told by its name where there are several."""
        rows = [term.rows(batch) for term in self.terms]
        states_rh = model.encoder(batch.packed, rows[0] if len(rows) == 1 else torch.cat(rows))[-1]
        parts: dict[str, Tensor] = {}
        losses = []
        for term, states in zip(self.terms, states_rh.split([len(r) for r in rows]), strict=True):
            total, weight = getattr(totals, term.over), self.config.weights[term.name]
            sums = term(model, states, batch, weight * self.scale / total)
            means = {figure: value / total for figure, value in zip(term.figures, sums, strict=True)}
            losses.append(weight * means[term.name])
            parts |= means
        if len(self.terms) == 1:
            del parts[self.terms[0].name]
        return {"loss": sum(losses[1:], losses[0]), **parts}

    def over(self, term: str) -> Collection[str]:
        """See `Objective.over`."""
        return {part.over for part in self.terms if term in ("loss", *part.figures)}
