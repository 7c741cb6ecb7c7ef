"""Distillation as an objective of pretrain's loop.

The teacher reads the same masked batch, in inference mode, with its head on the masked positions only. Nothing of it is trained or
saved; the projection between the two widths is both.
"""

import torch
from torch import Tensor, nn

from biolm.distill.config import LossConfig
from biolm.distill.losses import cosine_distance, soft_cross_entropy
from biolm.model.encoder import MaskedLM
from biolm.pretrain.batches import Batch
from biolm.pretrain.objective import Objective, Totals, mlm_terms


class Teacher:
    """A frozen model. Not a module: an objective that holds it neither trains, moves nor saves it."""

    def __init__(self, model: MaskedLM, device: torch.device):
        self.model = model.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Last hidden states [t, u] and logits [m, v] at the masked positions."""
        hidden_tu = self.model.encoder(batch.packed)[-1]
        return hidden_tu, self.model.logits(hidden_tu[batch.positions_m])


class DistillObjective(Objective):
    """Weighted sum of soft cross-entropy, masked-LM loss and hidden-state alignment.

    Args:
        teacher: Answers for every batch.
        student_width: Hidden size of the student.
        config: Weights.
    """

    def __init__(self, teacher: Teacher, student_width: int, config: LossConfig):
        super().__init__()
        self.teacher, self.config = teacher, config
        width = teacher.model.config.hidden_size
        aligned = config.hidden > 0 and width != student_width
        self.projection = nn.Linear(student_width, width, bias=False) if aligned else None

    def forward(self, model: MaskedLM, batch: Batch, totals: Totals) -> dict[str, Tensor]:
        """See `Objective.forward`; the parts are reported unweighted as `kl`, `mlm` and `hidden`."""
        teacher_tu, teacher_mv = self.teacher(batch)
        hidden_th = model.encoder(batch.packed)[-1]
        logits_mv = model.logits(hidden_th[batch.positions_m])
        mlm = mlm_terms(logits_mv, batch.labels_m, totals)
        v = min(logits_mv.shape[1], teacher_mv.shape[1])  # either may have silent rows behind the vocabulary
        kl = soft_cross_entropy(logits_mv[:, :v], teacher_mv[:, :v], self.config.temperature) / totals.masked
        terms = {"mlm": mlm["loss"], "accuracy": mlm["accuracy"], "kl": kl}
        loss = self.config.mlm * mlm["loss"] + self.config.kl * kl
        if self.config.hidden:
            projected_tu = hidden_th if self.projection is None else self.projection(hidden_th)
            terms["hidden"] = cosine_distance(projected_tu, teacher_tu) / totals.tokens
            loss = loss + self.config.hidden * terms["hidden"]
        return {"loss": loss, **terms}
