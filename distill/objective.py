"""Distillation as an objective of the training loop: the parts of `LossConfig`, each by its weight.

The teachers read the same masked micro-batch as the student, now or when their cache was written. They are neither trained nor saved; the
projections between different widths are both.
"""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from biomlm.distill.losses.captured import QKV, captured
from biomlm.distill.losses.config import LossConfig, weight_at
from biomlm.distill.losses.layer_maps import require_no_deeper
from biomlm.distill.losses.predictions import PredictionPart
from biomlm.distill.losses.states import Compared, Layers, StatePart
from biomlm.distill.teachers.teacher import TeacherOutputs, TeacherRequest, TeacherSource
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.data.batches import Batch
from biomlm.training.objective import LossDenominators, Objective


class Alignment(nn.Module):
    """The parts of the loss that compare the states of a student and one teacher, and the projections between their widths.

    Args:
        student: Shape of the student.
        teacher: Shape of the teacher.
        config: What is aligned.
        source: Where the teacher came from, for errors.

    Raises:
        MismatchError: The student is deeper, or a layer is missing.
        ConfigError: A part does not fit the shapes.
    """

    def __init__(self, student: EncoderConfig, teacher: EncoderConfig, config: LossConfig, source: str | Path):
        super().__init__()
        require_no_deeper(student.num_hidden_layers, teacher.num_hidden_layers, source)
        self.parts: dict[str, StatePart] = {
            name: entry.load()(student, teacher, config, source)
            for name, entry in config.used.items()
            if entry.over == "tokens"
        }
        self.pairs = list(dict.fromkeys(pair for part in self.parts.values() for pair in part.layers))
        self.projections = nn.ModuleDict(
            {f"{a}_{b}": nn.Linear(student.hidden_size, teacher.hidden_size, bias=False) for a, b in self.pairs}
            if student.hidden_size != teacher.hidden_size
            else {}
        )
        attention = {part.attention_layer for part in self.parts.values()} - {None}
        assert len(attention) <= 1, "parts look into different layers of the teacher"
        self.attention_layer = next(iter(attention), None)

    def request(self, predictions: bool) -> TeacherRequest:
        """List what the losses need of the teacher."""
        return TeacherRequest(predictions, tuple(layer for _, layer in self.pairs), self.attention_layer)

    def project(self, layers: Layers, states_xh: Tensor) -> Tensor:
        """Project states to the teacher's width, [x, u], where the widths differ."""
        name = "{}_{}".format(*layers)
        projected_xu: Tensor = self.projections[name](states_xh) if name in self.projections else states_xh
        return projected_xu


class DistillObjective(Objective[MaskedLM, Batch]):
    """Weighted sum of the parts of the loss that have a weight.

    Args:
        teachers: Give the teachers' outputs for every micro-batch.
        student: Shape of the student.
        config: Weights.
        vocab_size: Pieces of the vocabulary; the student's rows behind it are masked and left out.
        steps: Optimiser steps of the run, over which weights change.
        sources: Where the teachers came from, for errors.
    """

    def __init__(
        self,
        teachers: TeacherSource,
        student: EncoderConfig,
        config: LossConfig,
        *,
        vocab_size: int,
        steps: int,
        sources: Sequence[str | Path],
    ):
        super().__init__()
        self.teachers, self.config, self.vocab_size, self.steps = teachers, config, vocab_size, steps
        pairs = zip(teachers.configs, sources, strict=True)
        self.alignments = nn.ModuleList(Alignment(student, teacher, config, source) for teacher, source in pairs)
        predicting = dict.fromkeys(entry.load() for entry in config.used.values() if entry.over == "masked")
        self.predictions: list[PredictionPart] = [part(config) for part in predicting]
        self.requests = [alignment.request(config.compares_predictions) for alignment in self._aligned()]
        self.looks_inside = any(alignment.attention_layer is not None for alignment in self._aligned())
        teachers.require(self.requests)

    def _aligned(self) -> list[Alignment]:
        return list(self.alignments)  # type: ignore[arg-type]

    def forward(self, model: MaskedLM, batch: Batch, totals: LossDenominators) -> dict[str, Tensor]:
        """See `Objective.forward`; the parts are reported unweighted, by their names in `LossConfig`.

        With teachers of other vocabularies, `aligned` is the share of tokens whose words have been compared.
        """
        outputs = self.teachers(batch, self.requests)
        with ExitStack() as stack:
            captures: list[QKV] = []
            if self.looks_inside:
                captures = stack.enter_context(captured(model.encoder, model.config.num_hidden_layers))
            hidden = model.encoder(batch.packed)
        progress = batch.step / max(self.steps - 1, 1)
        terms: dict[str, Tensor] = {}
        # Every parameter gets a gradient, if only of 0: DistributedDataParallel and a checkpoint's optimizer state need it.
        loss = hidden[-1].sum() * 0 + sum(p.sum() * 0 for p in model.head.parameters())
        if self.predictions:
            logits_mv = model.logits(hidden[-1][batch.positions_m])[:, : self.vocab_size]
        for part in self.predictions:
            weighted, figures = part(logits_mv, batch.labels_m, outputs.targets, progress)
            loss = loss + weighted / totals.masked
            terms |= {name: value / totals.masked for name, value in figures.items()}
        over = totals.tokens * len(self.alignments)
        for name, value in self._compared(outputs, hidden, captures[0] if captures else None, batch).items():
            terms[name] = value / over
            loss = loss + weight_at(getattr(self.config, name), progress) * terms[name]
        aligned = [(states.word_of_t >= 0).sum() for states in outputs.states if states.word_of_t is not None]
        if aligned:
            terms["aligned"] = torch.stack(aligned).sum() / over
        return {"loss": loss, **terms}

    def over(self, term: str) -> Collection[str]:
        """See `Objective.over`."""
        masked = {figure for part in self.predictions for figure in part.figures}
        return ("masked",) if term in masked or (term == "loss" and self.predictions) else ("tokens",)

    def _compared(
        self, outputs: TeacherOutputs, hidden: Sequence[Tensor], qkv: QKV | None, batch: Batch
    ) -> dict[str, Tensor]:
        """Sum each part over tokens and teachers."""
        sums: dict[str, Tensor] = {}
        for alignment, teacher in zip(self._aligned(), outputs.states, strict=True):
            states = Compared(hidden=hidden, qkv=qkv, teacher=teacher, packed=batch.packed, project=alignment.project)
            for name, part in alignment.parts.items():
                value = part(states)
                sums[name] = sums[name] + value if name in sums else value
        return sums
