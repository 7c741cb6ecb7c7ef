"""Distillation as an objective of pretrain's loop.

The teachers read the same masked micro-batch as the student, now or when their cache was written. They are neither trained nor saved; the
projections between different widths are both.
"""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor, nn

from biomlm.core.errors import ConfigError
from biomlm.distill.config import LossConfig, weight_at
from biomlm.distill.losses.kinds import Distance
from biomlm.distill.losses.layer_maps import layer_map, require_no_deeper
from biomlm.distill.losses.losses import Weighting, distance, prediction_losses, sequence_means
from biomlm.distill.losses.relations import QKV, captured, relation_distance
from biomlm.distill.teachers.cross_vocabulary import word_means
from biomlm.distill.teachers.teacher import TeacherOutputs, TeacherRequest, TeacherSource, TeacherStates
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.packed import Packed
from biomlm.pretrain.data.batches import Batch
from biomlm.training.objective import LossDenominators, Objective

EMBEDDINGS = (0, 0)


class Alignment(nn.Module):
    """The layers of a student and one teacher that are compared, and the projections between their widths.

    Args:
        student: Shape of the student.
        teacher: Shape of the teacher.
        config: What is aligned.
        source: Where the teacher came from, for errors.

    Raises:
        MismatchError: The student is deeper, or a layer is missing.
        ConfigError: The relation heads do not divide a width.
    """

    def __init__(self, student: EncoderConfig, teacher: EncoderConfig, config: LossConfig, source: str | Path):
        super().__init__()
        depths = student.num_hidden_layers, teacher.num_hidden_layers
        require_no_deeper(*depths, source)
        self.layers = layer_map(config.layers, *depths, "loss.layers", source) if config.uses("hidden") else []
        self.pooled = [depths] if config.uses("pooled") else []
        embeddings = [EMBEDDINGS] if config.uses("embeddings") else []
        self.pairs = list(dict.fromkeys([*self.layers, *self.pooled, *embeddings]))
        self.projections = nn.ModuleDict(
            {f"{a}_{b}": nn.Linear(student.hidden_size, teacher.hidden_size, bias=False) for a, b in self.pairs}
            if student.hidden_size != teacher.hidden_size
            else {}
        )
        self.heads = config.relation_heads or student.num_attention_heads
        self.relation_layer = None
        if config.uses("relations"):
            self.relation_layer = config.relation_layer or teacher.num_hidden_layers
            _require_relations(self.relation_layer, self.heads, student, teacher, source)

    def request(self, predictions: bool) -> TeacherRequest:
        """List what the losses need of the teacher."""
        return TeacherRequest(predictions, tuple(layer for _, layer in self.pairs), self.relation_layer)

    def state_distance(
        self, pair: tuple[int, int], hidden: Sequence[Tensor], teacher: TeacherStates, kind: Distance
    ) -> Tensor:
        """Sum the distance of one pair of layers over the tokens."""
        student_th, teacher_tu = hidden[pair[0]], teacher.hidden[pair[1]]
        if teacher.word_of_t is not None:  # each token stands for its word
            words_t = teacher.word_of_t[teacher.word_of_t >= 0]
            student_th = word_means(student_th, teacher.word_of_t, len(teacher_tu))[words_t]
            teacher_tu = teacher_tu[words_t]
        return distance(self._projected(pair, student_th), teacher_tu, kind).sum()

    def mean_distance(
        self, pair: tuple[int, int], hidden: Sequence[Tensor], teacher: TeacherStates, packed: Packed, kind: Distance
    ) -> Tensor:
        """Sum the distance of the sequences' means of one pair of layers, each weighted by its number of tokens."""
        lengths_b = packed.cu_seqlens.diff()
        student_bh, teacher_bu = (sequence_means(x, lengths_b) for x in (hidden[pair[0]], teacher.hidden[pair[1]]))
        return (lengths_b * distance(self._projected(pair, student_bh), teacher_bu, kind)).sum()

    def _projected(self, pair: tuple[int, int], states_xh: Tensor) -> Tensor:
        """Project states to the teacher's width, [x, u], where the widths differ."""
        name = "{}_{}".format(*pair)
        projected_xu: Tensor = self.projections[name](states_xh) if name in self.projections else states_xh
        return projected_xu


def _require_relations(
    layer: int, heads: int, student: EncoderConfig, teacher: EncoderConfig, source: str | Path
) -> None:
    if layer > teacher.num_hidden_layers:
        raise ConfigError(
            f"loss.relation_layer is {layer}, and the teacher has {teacher.num_hidden_layers} layers",
            file=source,
            remedy="Leave it out for the last.",
        )
    if student.hidden_size % heads or teacher.hidden_size % heads:
        raise ConfigError(
            f"{heads} relation heads do not divide the student's width {student.hidden_size} "
            f"and the teacher's {teacher.hidden_size}",
            file=source,
            remedy="Give --loss.relation_heads a number that divides both.",
        )


class DistillObjective(Objective):
    """Weighted sum of soft cross-entropy, masked-LM loss, alignment of hidden states, their means and embeddings, and attention relations.

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
        vocab_size: int,
        steps: int,
        sources: Sequence[str | Path],
    ):
        super().__init__()
        self.teachers, self.config, self.vocab_size, self.steps = teachers, config, vocab_size, steps
        pairs = zip(teachers.configs, sources, strict=True)
        self.alignments = nn.ModuleList(Alignment(student, teacher, config, source) for teacher, source in pairs)
        self.predicts = config.uses("kl") or config.uses("mlm")
        self.requests = [alignment.request(config.uses("kl")) for alignment in self._aligned()]
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
            if self.config.uses("relations"):
                captures = stack.enter_context(captured(model.encoder, model.config.num_hidden_layers))
            hidden = model.encoder(batch.packed)
        progress = batch.step / max(self.steps - 1, 1)
        terms: dict[str, Tensor] = {}
        # Every parameter gets a gradient, if only of 0: DistributedDataParallel and a checkpoint's optimizer state need it.
        loss = hidden[-1].sum() * 0 + sum(p.sum() * 0 for p in model.head.parameters())
        if self.predicts:
            logits_mv = model.logits(hidden[-1][batch.positions_m])[:, : self.vocab_size]
            weighting = Weighting(
                weight_at(self.config.kl, progress), weight_at(self.config.mlm, progress), self.config.temperature
            )
            weighted, kl, mlm, right = prediction_losses(logits_mv, batch.labels_m, outputs.targets, weighting)
            loss = loss + weighted / totals.masked
            terms |= {"mlm": mlm / totals.masked, "accuracy": right / totals.masked}
            terms |= {"kl": kl / totals.masked} if outputs.targets is not None else {}
        for name, value in self._alignment(outputs, hidden, captures, batch).items():
            terms[name] = value / (totals.tokens * len(self.alignments))
            if name != "aligned":
                loss = loss + weight_at(getattr(self.config, name), progress) * terms[name]
        return {"loss": loss, **terms}

    def over(self, term: str) -> Collection[str]:
        """See `Objective.over`."""
        predicted = term in ("kl", "mlm", "accuracy") or (term == "loss" and self.predicts)
        return ("masked",) if predicted else ("tokens",)

    def _alignment(
        self, outputs: TeacherOutputs, hidden: Sequence[Tensor], captures: Sequence[QKV], batch: Batch
    ) -> dict[str, Tensor]:
        """Sum over tokens and teachers: hidden states (a mean over pairs of layers), their means, embeddings and relations."""
        sums: dict[str, Tensor] = {}
        packed, kind = batch.packed, self.config.distance

        def add(name: str, value: Tensor) -> None:
            sums[name] = sums[name] + value if name in sums else value

        for alignment, teacher in zip(self._aligned(), outputs.states, strict=True):
            for pair in alignment.layers:
                add("hidden", alignment.state_distance(pair, hidden, teacher, kind) / len(alignment.layers))
            for pair in alignment.pooled:
                add("pooled", alignment.mean_distance(pair, hidden, teacher, packed, kind))
            if self.config.uses("embeddings"):
                add("embeddings", alignment.state_distance(EMBEDDINGS, hidden, teacher, kind))
            if teacher.word_of_t is not None:
                add("aligned", (teacher.word_of_t >= 0).sum())
            if teacher.qkv is not None:
                heads, relation = alignment.heads, self.config.relation
                add("relations", relation_distance(captures[0], teacher.qkv, packed.lengths, heads, relation))
        return sums
