"""Estimate what a distillation needs on a fleet: pretraining's plan (`biomlm.pretrain.planning.estimate`) and the teacher's share.

Formulas, not measurements; docs/scaling.md says what they are checked against. Not counted are attention relations' products, which are
those of one layer more, and reading a cache.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from biomlm.core.fleet import Before, Fleet
from biomlm.distill.config import DistillConfig
from biomlm.distill.objective import Alignment
from biomlm.distill.teachers.cache_config import CacheConfig, TeacherOutputsConfig
from biomlm.distill.teachers.cached import CachedTeachers
from biomlm.model.config import EncoderConfig
from biomlm.model.flops import step_flops
from biomlm.model.roofline import EFFICIENCIES, Way, Work, layer_forward
from biomlm.pretrain.planning.estimate import (
    GB,
    RESERVE,
    Beside,
    encoder_of,
    flops_per_token,
    kept_per_token,
    parameters,
    rows_of,
    shape_of,
)

# Bytes of a logit, beside the logits, while a cache's excerpt is taken: log-probabilities, their copies, sums of samples in float64.
EXCERPT = {"sample": 24, "top": 12}


def estimate(config: DistillConfig, fleet: Fleet, before: Before) -> dict[str, object]:
    """Plan one distillation on a fleet, as rows to print."""
    student, teachers = encoder_of(config, before), teachers_of(config, before)
    beside = beside_of(config, student, teachers)
    rows = rows_of(config, student, fleet, beside)
    alone = flops_per_token(config, student, all_rows=True)
    return rows | {
        "parameters of the teachers": sum(map(parameters, teachers)),
        "GB a GPU, of these the teachers' weights": f"{beside.frozen / GB:.2f}",
        "GB a GPU, of these compared states": f"{beside.kept * config.batch.tokens / GB:.2f}",
        "computing, of which beside the student": f"{beside.flops / (alone + beside.flops):.0%}",
    }


def teachers_of(config: DistillConfig, before: Before) -> list[EncoderConfig]:
    """Find the teachers' shapes, by their paths or from the cache of their outputs, which an earlier stage writes or which is there.

    Raises:
        UserError: A teacher, or the cache, cannot be read.
    """
    if config.teachers:
        return [shape_of(path, before) for path in config.teachers]
    maker = before.maker(config.cache)
    if isinstance(maker, CacheConfig):
        return [shape_of(path, before) for path in maker.teacher]
    return CachedTeachers(config.cache).configs


def beside_of(config: DistillConfig, student: EncoderConfig, teachers: Sequence[EncoderConfig]) -> Beside:
    """Count what the teachers and the losses take.

    A teacher that runs has the run's precision; one with another vocabulary, which is taken to read as many pieces as the student, and
    one that is only evaluated, beside a cache, are in float32. A compared state takes three copies: as the teacher computed it, in float32
    at length 1, and the student's, projected, in float32. A relation keeps two float32 matrices of the longest sequence for each head.

    Raises:
        UserError: Teacher and student cannot be compared.
    """
    full = bool(config.cache) or config.vocabulary == "words"
    b = 2 if config.precision != "fp32" else 4
    of_teacher = 4 if full else b
    with torch.device("meta"):
        sources = config.teachers or [config.cache] * len(teachers)
        pairs = zip(teachers, sources, strict=True)
        alignments = [Alignment(student, teacher, config.loss, source) for teacher, source in pairs]
    trained = sum(p.numel() for alignment in alignments for p in alignment.parameters())
    kept = 0
    for teacher, alignment in zip(teachers, alignments, strict=True):
        kept += len(alignment.pairs) * teacher.hidden_size * (of_teacher + 8)
        kept += sum(part.bytes_per_token(b, config.batch.max_length) for part in alignment.parts.values())
    running = [] if config.cache else teachers
    predicting = config.loss.compares_predictions
    return Beside(
        trained=trained,
        frozen=of_teacher * sum(map(parameters, teachers)) if config.teachers else 0,
        kept=kept,
        passing=max((_passing(teacher, of_teacher) for teacher in running), default=0),
        logit=_logit(config, b, len(running) if predicting else 0),
        flops=sum(_forward(config, teacher, predicting) for teacher in running) + 6 * trained,
        all_rows=True,
    )


def estimate_cache(config: CacheConfig, fleet: Fleet, before: Before) -> dict[str, object]:
    """Plan a cache on one GPU of a fleet, which all of its processes share, as rows to print."""
    teachers = [shape_of(path, before) for path in config.teacher]
    b = 2 if config.precision != "fp32" else 4
    tokens = config.steps * config.batch.tokens * config.batch.accumulation
    logits = config.mlm.mask_rate * config.batch.tokens * before.vocab_size if config.k else 0
    each = (
        b * sum(map(parameters, teachers))
        + config.batch.tokens * max(_passing(teacher, b) for teacher in teachers)
        + logits * (b * len(teachers) + EXCERPT[config.kind])
    )
    flops = tokens * sum(_forward(config, teacher, config.k > 0) for teacher in teachers)
    hours = _asking_seconds(config, fleet, teachers, flops) / 3600
    bytes_ = tokens * (
        config.mlm.mask_rate * position_bytes(config, before.vocab_size)
        + 2 * len(config.hidden) * sum(teacher.hidden_size for teacher in teachers)
    )
    return {
        "GPU": f"1 {fleet.gpu} {fleet.memory_gb:g} GB",
        "parameters of the teachers": sum(map(parameters, teachers)),
        "tokens in all": tokens,
        "GB of the GPU": f"{config.workers * (each / GB + RESERVE):.1f}",
        "days": f"{hours / 24:.2f}",
        "GPU-hours": round(hours),
        "GB of the cache, before compression": round(bytes_ / GB, 2),
    }


def _asking_seconds(config: CacheConfig, fleet: Fleet, teachers: Sequence[EncoderConfig], flops: float) -> float:
    """Estimate how long one GPU runs teachers forward over all tokens."""
    if fleet.measured is not None:
        return flops / (fleet.tflops * 1e12 * fleet.measured)
    tokens, length = config.batch.tokens, config.batch.max_length
    layers = (
        layer_forward(teacher, tokens, length, Way(config.precision != "fp32")) * teacher.num_hidden_layers
        for teacher in teachers
    )
    one = sum(layers, Work())
    beside_products = replace(one, products=flops / (config.steps * config.batch.accumulation) - one.attention)
    efficiency = EFFICIENCIES[fleet.kind]
    return config.steps * config.batch.accumulation * beside_products.seconds(fleet.tflops, fleet.bandwidth, efficiency)


def position_bytes(config: TeacherOutputsConfig, vocab_size: int) -> int:
    """Count the bytes that a cache keeps of a masked position at most, before compression (see `biomlm.distill.teachers.cache_blocks`)."""
    if not config.k:
        return 0
    id_ = 2 if vocab_size <= 1 << 16 else 4
    if config.kind == "top":
        return config.k * id_ + 2 * (config.k + 1)
    times = 1 if config.k < 256 else 2
    return config.k * (id_ + times) + 4  # all draws apart; their number and the entropy


def _forward(config: DistillConfig | TeacherOutputsConfig, teacher: EncoderConfig, predicting: bool) -> float:
    """Count the floating-point operations of a teacher for each token: a third of a training step's."""
    length = config.batch.max_length
    return step_flops(teacher, [length], round(config.mlm.mask_rate * length) if predicting else 0) / 3 / length


def _passing(teacher: EncoderConfig, b: int) -> float:
    """Count the bytes of a running teacher for each token: the states after every layer, and the current layer as if it were trained."""
    states = (teacher.num_hidden_layers + 1) * teacher.hidden_size * b
    return states + kept_per_token(teacher, half=b == 2, recompute=False)


def _logit(config: DistillConfig, b: int, teachers: int) -> float:
    """Count the bytes for each logit at the peak: both sides' logits and the gradient, or the gradient's backward pass."""
    if not config.loss.predicts:
        return 0
    gradient = 4 if config.precision == "fp16" else b
    return max((1 + teachers) * b + gradient, 2 * gradient + b)
