"""What the parts of the GPU benchmark have in common: models, batches of new lengths each step, and the clock."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import plain  # noqa: F401
import torch

from biomlm.model.compute import prepare
from biomlm.model.config import ComputeConfig, EncoderConfig, ModelConfig
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.flops import measured_peak, peak, step_flops
from biomlm.model.optim.config import OptimConfig
from biomlm.model.packed import Packed
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.pretrain.objectives.config import ObjectiveConfig
from biomlm.training.distributed.ddp import DDPEngine
from biomlm.training.distributed.engine import LossModule
from biomlm.training.distributed.process_group import RankInfo, World
from biomlm.training.objective import LossDenominators

MASK_RATE, WARM = 0.15, 3


@dataclass
class Line:
    """One line of the result.

    Args:
        part: Whose.
        what: Of what.
        figures: Numbers and words by name.
        problem: What is wrong; empty if nothing is.
    """

    part: str
    what: str
    figures: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    def __str__(self) -> str:
        words = ", ".join(f"{name} {shown(value)}" for name, value in self.figures.items())
        return f"{self.part}: {self.what}: {'FAILED: ' + self.problem if self.problem else words}"


def shown(value: Any) -> str:
    """A figure in few characters."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        device: Where and in which precision.
        sizes: Names of models.
        tokens: Of a micro-batch.
        length: Longest sequence.
        vocab_size: Pieces.
        dropout: Everywhere.
        seconds: For each timing.
    """

    device: Device
    sizes: Sequence[str]
    tokens: int
    length: int
    vocab_size: int
    dropout: float
    seconds: float

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU at all."""
        return self.device.torch.type == "cuda"

    def encoder(self, size: str, **how: Any) -> EncoderConfig:
        """A shape."""
        how = {"hidden_dropout": self.dropout, "attention_dropout": self.dropout, **how}
        length = how.pop("length", self.length)
        return ModelConfig(size=size, **how).resolve(self.vocab_size, length, 1)


def lengths_of(tokens: int, longest: int, draws: random.Random) -> list[int]:
    """Lengths as of sentences packed into sequences, most of them shorter than the longest, that add up to exactly `tokens`."""
    lengths, left = list[int](), tokens
    while left:
        lengths.append(min(max(1, min(longest, round(draws.lognormvariate(0, 0.5) * longest / 2))), left))
        left -= lengths[-1]
    return lengths


def batch_of(settings: Settings, encoder: EncoderConfig, number: int, *, equal: bool = False) -> Batch:
    """Random ids under masks; the batch of a number is always the same."""
    draws = random.Random(number)
    tokens = settings.tokens if equal else settings.tokens - draws.randrange(settings.length)
    longest = encoder.max_positions
    lengths = [longest] * (tokens // longest) if equal else lengths_of(tokens, longest, draws)
    draw = torch.Generator().manual_seed(number)
    ids_t = torch.randint(4, encoder.vocab_size, (sum(lengths),), generator=draw)
    positions_m = torch.randperm(len(ids_t), generator=draw)[: max(1, int(MASK_RATE * len(ids_t)))].sort().values
    labels_m = ids_t[positions_m].clone()
    ids_t[positions_m] = 3
    return Batch(Packed(ids_t, tuple(lengths)), positions_m, labels_m, epoch=0, index=number, step=number)


def engine_of(encoder: EncoderConfig, device: Device, *, optim: OptimConfig | None = None, **compute: Any) -> DDPEngine:
    """Our own engine around a model with seeded weights."""
    torch.manual_seed(0)
    model = MaskedLM(encoder).train()
    prepare(model.to(device.torch).encoder, device, ComputeConfig(**compute))
    loss = LossModule(model, PretrainObjective(ObjectiveConfig(), encoder), device)
    return DDPEngine(loss, World(RankInfo()), optim or OptimConfig(lr=1e-4), 100_000)


def on_device(batch: Batch, device: Device) -> Batch:
    """A batch, moved as the loop moves it."""
    return batch.to(device.torch)


def batches_of(settings: Settings, encoder: EncoderConfig, number: int = 16) -> list[Batch]:
    """Batches of different lengths as the loop's loader gives them, which makes and pins them beside the steps."""
    batches = [batch_of(settings, encoder, n) for n in range(number)]
    return [batch.pin() for batch in batches] if settings.on_gpu else batches


def one_step(engine: DDPEngine, batch: Batch, number: int) -> Mapping[str, float]:
    """A step of one micro-batch, with whatever the loop does in one."""
    engine.begin(number, timed=False)
    sums = engine.backward(on_device(batch, engine.device), LossDenominators.of([batch]), 1.0, last=True)
    return engine.step(sums, lambda *_: True).figures


def wait(device: Device) -> None:
    """Until the device is done."""
    if device.torch.type == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[int], Any], device: Device, seconds: float) -> tuple[int, float]:
    """How often some work was done, and in how many seconds, after it has been warmed up."""
    for number in range(WARM):
        work(number)
    wait(device)
    start, count = time.perf_counter(), 0
    while count < 3 or time.perf_counter() - start < seconds:
        work(WARM + count)
        count += 1
        if count % 5 == 0:
            wait(device)
    wait(device)
    return count, time.perf_counter() - start


def speed(settings: Settings, encoder: EncoderConfig, batches: Sequence[Batch], seconds: float) -> dict[str, Any]:
    """Figures of steps over these batches in so many seconds."""
    flops = sum(step_flops(encoder, batch.packed.lengths, batch.predicted, batch.rows) for batch in batches)
    tokens = sum(len(batch.packed.input_ids_t) for batch in batches)
    rate = flops / seconds
    figures = {
        "tokens/s": tokens / seconds,
        "ms": 1e3 * seconds / len(batches),
        "of the datasheet": rate / peak(settings.device),
        "of a product": rate / measured_peak(settings.device),
    }
    if settings.on_gpu:
        figures["GB"] = torch.cuda.max_memory_allocated() / 1e9
    return figures


@contextmanager
def clean(settings: Settings) -> Iterator[None]:
    """Start with the memory empty."""
    if settings.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield


def trained_speed(settings: Settings, encoder: EncoderConfig, engine: DDPEngine) -> dict[str, Any]:
    """Steps with new lengths each time, batches made beforehand."""
    batches = batches_of(settings, encoder)
    seen = list[Batch]()

    def work(number: int) -> None:
        seen.append(batches[number % len(batches)])
        one_step(engine, seen[-1], number)

    count, seconds = timed(work, settings.device, settings.seconds)
    return speed(settings, encoder, seen[-count:], seconds)


def in_precision(settings: Settings, precision: str) -> Settings:
    """The same elsewhere."""
    return replace(settings, device=Device(settings.device.torch, precision))  # type: ignore[arg-type]
