"""Parts of the GPU benchmark that time steps: ours in the engine's loop with new lengths each step, and Hugging Face's beside them."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import plain  # noqa: F401
import torch
from gpu_common import (
    Line,
    Settings,
    batch_of,
    batches_of,
    clean,
    engine_of,
    in_precision,
    one_step,
    speed,
    timed,
    trained_speed,
)
from peers import roberta
from torch import nn

from biomlm.distill.losses.config import LossConfig
from biomlm.distill.objective import DistillObjective
from biomlm.distill.teachers.teacher import TeacherRequest, Teachers
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.registry import OPTIMISERS
from biomlm.pretrain.data.batches import Batch
from biomlm.training.distributed.ddp import DDPEngine
from biomlm.training.distributed.engine import LossModule
from biomlm.training.distributed.process_group import RankInfo, World

LONG = 8192


def loop(settings: Settings) -> Iterator[Line]:
    """Our steps in each size, as they are and compiled, and ModernBERT's with long sequences."""
    shapes = [(size, settings.encoder(size)) for size in settings.sizes]
    long = min(LONG, settings.tokens // 2)
    shapes.append((f"ModernBERT at {long}", settings.encoder(settings.sizes[0], shape="modernbert", length=long)))
    for name, encoder in shapes:
        for compiled in (False, True) if settings.on_gpu else (False,):
            with clean(settings):
                engine = engine_of(encoder, settings.device, compile=compiled)
                figures = trained_speed(settings, encoder, engine)
            yield Line("loop", f"{name}{', compiled' * compiled}", figures)


def transformers_step(
    encoder: EncoderConfig, settings: Settings, *, flash: bool, compiled: bool
) -> Callable[[Batch], None]:
    """Hugging Face's class: fused AdamW, padding, logits at every position."""
    model: Any = roberta(encoder)
    if flash:
        model.set_attn_implementation("flash_attention_2")
    model = model.to(settings.device.torch).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    run = torch.compile(model, dynamic=True) if compiled else model

    def step(batch: Batch) -> None:
        device, lengths = settings.device.torch, batch.packed.lengths
        labels_t = torch.full_like(batch.packed.input_ids_t, -100)
        labels_t[batch.positions_m] = batch.labels_m
        padded = [
            nn.utils.rnn.pad_sequence(list(torch.split(x, lengths)), batch_first=True, padding_value=fill).to(device)
            for x, fill in ((batch.packed.input_ids_t, encoder.pad_token_id), (labels_t, -100))
        ]
        mask_bl = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long().to(device)
        with settings.device.autocast():
            loss = run(input_ids=padded[0], attention_mask=mask_bl, labels=padded[1]).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def hugging_face(settings: Settings) -> Iterator[Line]:
    """Its steps on the same batches: padded, with flash attention where that is installed, compiled."""
    ways = {"padded": {}, "flash attention": {"flash": True}, "compiled": {"compiled": True}}
    for size in settings.sizes:
        encoder = settings.encoder(size)
        for name, way in ways.items() if settings.on_gpu else [("padded", {})]:
            try:
                with clean(settings):
                    figures = their_speed(settings, encoder, flash="flash" in way, compiled="compiled" in way)
                yield Line("transformers", f"{size}, {name}", figures)
            except (ImportError, ValueError, RuntimeError) as error:  # one way that this machine has not
                yield Line("transformers", f"{size}, {name}", problem=f"{type(error).__name__}: {str(error)[:200]}")


def their_speed(settings: Settings, encoder: EncoderConfig, *, flash: bool, compiled: bool) -> dict[str, Any]:
    """As `trained_speed`."""
    step = transformers_step(encoder, settings, flash=flash, compiled=compiled)
    batches = batches_of(settings, encoder)
    seen = list[Batch]()

    def work(number: int) -> None:
        seen.append(batches[number % len(batches)])
        step(seen[-1])

    count, seconds = timed(work, settings.device, settings.seconds)
    return speed(settings, encoder, seen[-count:], seconds)


def optimisers(settings: Settings) -> Iterator[Line]:
    """A step with each optimiser that there is."""
    encoder = settings.encoder(settings.sizes[0])
    for name in OPTIMISERS:
        with clean(settings):
            engine = engine_of(encoder, settings.device, optim=OptimConfig(name=name, lr=1e-4))
            yield Line("optimiser", name, trained_speed(settings, encoder, engine))


def half_precision(settings: Settings) -> Iterator[Line]:
    """fp16 with its loss scale: one batch is learnt, and the scale stays where steps count."""
    settings = in_precision(settings, "fp16")
    encoder = settings.encoder(settings.sizes[0], hidden_dropout=0.0, attention_dropout=0.0)
    with clean(settings):
        engine = engine_of(encoder, settings.device, optim=OptimConfig(lr=3e-4, warmup=0.0, schedule="constant"))
        batch = batch_of(settings, encoder, 0)
        losses = [one_step(engine, batch, number)["loss"] for number in range(20)]
    figures = {"first loss": losses[0], "last loss": losses[-1], "scale": engine.factor, "updates": engine.updates}
    learnt = math.isfinite(losses[-1]) and losses[-1] < losses[0] and engine.factor >= 1 and engine.updates >= 10
    yield Line("fp16", settings.sizes[0], figures, "" if learnt else f"nothing learnt: {figures}")


def recomputed(settings: Settings) -> Iterator[Line]:
    """What computing layers twice costs and saves."""
    encoder = settings.encoder(settings.sizes[-1])
    with clean(settings):
        engine = engine_of(encoder, settings.device, recompute=True)
        yield Line("recompute", settings.sizes[-1], trained_speed(settings, encoder, engine))


def distillation(settings: Settings) -> Iterator[Line]:
    """A student of half the layers: alone, and beside a teacher with predictions, states and relations; the teacher alone, as a cache."""
    encoder = settings.encoder(settings.sizes[0])
    small = settings.encoder(settings.sizes[0], num_hidden_layers=max(1, encoder.num_hidden_layers // 2))
    with clean(settings):
        plain_step = trained_speed(settings, small, engine_of(small, settings.device))
    yield Line("distillation", "student alone", plain_step)
    teachers = Teachers([MaskedLM(encoder).to(settings.device.torch)], settings.device, settings.vocab_size)
    for name, parts in (
        ("predictions", LossConfig(kl=1.0, mlm=1.0, hidden=0.0)),
        ("predictions, states and relations", LossConfig(kl=1.0, mlm=1.0, hidden=1.0, relations=1.0)),
    ):
        with clean(settings):
            torch.manual_seed(0)
            model = MaskedLM(small).train()
            objective = DistillObjective(
                teachers, student=small, config=parts, vocab_size=settings.vocab_size, steps=1000, sources=["teacher"]
            )
            engine = DDPEngine(
                LossModule(model, objective, settings.device), World(RankInfo()), OptimConfig(lr=1e-4), 1000
            )
            figures = trained_speed(settings, small, engine)
        yield Line("distillation", name, {**figures, "times a plain step": figures["ms"] / plain_step["ms"]})
    yield Line("caching", "a teacher's predictions", asked_speed(settings, encoder, teachers))


def asked_speed(settings: Settings, encoder: EncoderConfig, teachers: Teachers) -> dict[str, Any]:
    """Tokens a second of a teacher's forward passes."""
    batches = batches_of(settings, encoder)
    moved = [batch.to(settings.device.torch) for batch in batches]
    request = TeacherRequest(predictions=True)
    count, seconds = timed(lambda number: teachers(moved[number % 16], [request]), settings.device, settings.seconds)
    tokens = sum(len(batch.packed.input_ids_t) for batch in batches) / len(batches)
    return {"tokens/s": count * tokens / seconds}
