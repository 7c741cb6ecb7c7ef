"""The optimiser with the field's parameter groups, its schedules, and its state under parameter names, for every room that trains."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from biomlm.core.config import only
from biomlm.core.errors import CheckpointError, ConfigError
from biomlm.model.optim.lamb_stableadamw import Lamb, StableAdamW

try:
    from apex.optimizers import FusedLAMB  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # built from source by those who want it
    FusedLAMB = None

MOMENTS = ("exp_avg", "exp_avg_sq")
EMA = "ema"
LAST = ("wsd", "sqrt")  # schedules that decay in the last of the steps


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its schedule; the defaults are RoBERTa pretraining's but for `clip`, which RoBERTa leaves out, and the peak
    learning rate, which depends on the batch.

    Args:
        name: `adamw` (torch's fused), `lamb` for very large batches (apex's fused one where that is installed), or `stableadamw`
            (ModernBERT's), which needs no `clip`.
        lr: Peak learning rate: RoBERTa's on batches of 4M tokens is 6e-4 (base) or 4e-4 (large), fine-tuning's 1e-5 to 6e-5.
        betas: Decay of the first and second moment.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled; not applied to biases and norms.
        clip: Largest norm of the gradient; 0 for no limit.
        warmup: Share of the steps in which the rate rises linearly from 0.
        schedule: What follows the warm-up: `linear`, `cosine` or `polynomial` decay; `constant`; `wsd` (constant, then linear decay in
            the last `decay` of the steps, arXiv 2404.06395); `sqrt` (the same with 1 - square root of the time gone, arXiv 2405.18392).
        final: Share of the peak that decays end at (GatorTron: 0.1).
        decay: Share of the steps in which `wsd` and `sqrt` decay.
        power: Of the `polynomial` decay; 1 is linear.
        ema: Decay a step of a running mean of the weights, kept beside them, evaluated too, and taken out by `biomlm pretrain average`; it
            starts as (1 + t) / (10 + t), as TensorFlow's, t steps after the mean began; 0 keeps none.
        layer_decay: Each layer's rate is that of the layer above times this (Howard and Ruder 2018, arXiv 1801.06146); 1 for one rate.
    """

    name: Literal["adamw", "lamb", "stableadamw"] = "adamw"
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: float = 0.06
    schedule: Literal["linear", "cosine", "polynomial", "constant", "wsd", "sqrt"] = "linear"
    final: float = only(0.0, lambda optim: optim.schedule != "constant", "another --optim.schedule than constant")
    decay: float = only(0.1, lambda optim: optim.schedule in LAST, "--optim.schedule wsd or sqrt")
    power: float = only(1.0, lambda optim: optim.schedule == "polynomial", "--optim.schedule polynomial")
    ema: float = 0.0
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.clip < 0:
            raise ConfigError(
                "optim.lr must be positive, optim.clip not negative", remedy="Leave them out for the defaults."
            )
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(
                "optim.layer_decay must lie in (0, 1]", remedy="0.8 to 0.95 are usual; 1 switches it off."
            )
        if not (0 <= self.final <= 1 and 0 < self.decay <= 1 and self.power > 0):
            raise ConfigError(
                "optim.final lies in [0, 1], optim.decay in (0, 1], and optim.power is positive",
                remedy="The defaults are 0, 0.1 and 1.",
            )
        if not 0 <= self.ema < 1:
            raise ConfigError("optim.ema must lie in [0, 1)", remedy="0.999 to 0.9999 are usual; 0 keeps none.")
        if not 0 <= self.warmup <= 1:
            raise ConfigError("optim.warmup is a share of the steps, from 0 to 1", remedy="0.06 is RoBERTa's.")
        if self.schedule in LAST and self.warmup + self.decay > 1 + 1e-9:
            problem = f"optim.warmup ({self.warmup:g}) and optim.decay ({self.decay:g}) overlap: the rate would jump"
            raise ConfigError(problem, remedy="Let the two shares add up to 1 at most.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError("optim.betas must lie in [0, 1)", remedy="RoBERTa's are 0.9 and 0.98.")


class Optimizer:
    """An optimiser over named parameters; biases and norms (one-dimensional tensors) are not decayed.

    Args:
        named: Parameter name → parameter; `layers.N` in a name says how deep it sits.
        layers: Transformer layers.
        config: Rates and moments.
        steps: Optimiser steps of the whole run, which the schedule is stretched over.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], layers: int, config: OptimConfig, steps: int):
        self.named, self.config, self.steps = dict(named), config, steps
        groups: dict[
            tuple[float, float], list[nn.Parameter]
        ] = {}  # of the same settings: the fused kernel runs once for each
        for name, p in self.named.items():
            scale = config.layer_decay ** (layers + 1 - depth(name, layers))
            groups.setdefault((scale, config.weight_decay if p.ndim > 1 else 0.0), []).append(p)
        settings = [{"params": ps, "scale": scale, "weight_decay": decay} for (scale, decay), ps in groups.items()]
        self.inner = _inner(config, settings)
        self.mean: dict[str, Tensor] = {}  # of the weights, where `ema` asks for it
        self.mean_before = 0  # steps of earlier runs that are in it

    def step(self, step: int) -> tuple[Tensor, float]:
        """Update after `step` earlier updates and clear the gradients; the gradient's norm, still on its device, and the head's rate."""
        norm = self.norm()
        return norm, self.update(step, norm)

    def norm(self, scale: float = 1.0) -> Tensor:
        """Divide the gradients by `scale`, which their losses were multiplied by, and give their norm, still on its device."""
        grads = [p.grad for p in self.named.values() if p.grad is not None]
        if scale != 1:
            torch._foreach_mul_(grads, 1 / scale)
        norm = nn.utils.get_total_norm(grads)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # a sharded model's

    def update(self, step: int, norm: Tensor) -> float:
        """Clip gradients of this norm, update after `step` earlier updates and clear the gradients; the head's rate."""
        rate = self.config.lr * schedule(step, self.steps, self.config)
        for group in self.inner.param_groups:
            group["lr"] = rate * group["scale"]
        if self.config.clip:
            nn.utils.clip_grads_with_norm_(self.named.values(), self.config.clip, norm)
        self.inner.step()
        self._average(step)
        self.clear()
        return rate

    def _average(self, step: int) -> None:
        if not self.config.ema:
            return
        weights = [p.detach() for p in self.named.values()]
        if not self.mean:
            self.mean = {name: w.clone() for name, w in zip(self.named, weights, strict=True)}
        seen = self.mean_before + step
        decay = min(self.config.ema, (1 + seen) / (10 + seen))
        torch._foreach_lerp_(list(self.mean.values()), weights, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The running mean in the weights' place."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, mean in self.mean.items():
            weight = self.named[name]
            kept = weight.detach().clone()
            weight.copy_(mean)
            mean.copy_(kept)

    def clear(self) -> None:
        """Forget the gradients."""
        self.inner.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Moments by `<moment>.<parameter>`, and the running mean of the weights."""
        state = self.inner.state
        moments = {f"{m}.{name}": state[p][m] for name, p in self.named.items() if p in state for m in MOMENTS}
        return moments | {f"{EMA}.{name}": mean for name, mean in self.mean.items()}

    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Restore moments after `step` updates.

        Raises:
            CheckpointError: A parameter's moments are missing.
        """
        for name, parameter in self.named.items():
            if any(f"{m}.{name}" not in tensors for m in MOMENTS):
                raise CheckpointError(
                    f"the optimizer's state lacks {name}",
                    remedy="Start a new run with --init and this checkpoint's model.",
                )
            self.inner.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                **{m: tensors[f"{m}.{name}"].to(parameter) for m in MOMENTS},
            }
        if self.config.ema and all(f"{EMA}.{name}" in tensors for name in self.named):
            self.mean = {name: tensors[f"{EMA}.{name}"].to(p) for name, p in self.named.items()}
        for group in self.inner.param_groups:
            if "step" in group:  # where apex counts
                group["step"] = step


def _inner(config: OptimConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    if config.name == "stableadamw":
        return StableAdamW(groups, config.lr, config.betas, config.eps)
    if FusedLAMB is not None and torch.cuda.is_available():
        fused: torch.optim.Optimizer = FusedLAMB(
            groups, lr=config.lr, betas=config.betas, eps=config.eps, max_grad_norm=0.0
        )
        return fused
    return Lamb(groups, config.lr, config.betas, config.eps)


def depth(name: str, layers: int) -> int:
    """How far above the embeddings a parameter sits: 0 for these, N + 1 for layer N, `layers` + 1 for the head."""
    if match := re.search(r"\blayers\.(\d+)\.", name):
        return int(match[1]) + 1
    return 0 if "embedding" in name else layers + 1


def freeze(model: nn.Module, layers: int) -> None:
    """Leave the embeddings and the lowest `layers` layers as they are from now on; 0 leaves nothing.

    Raises:
        ConfigError: The model has fewer layers.
    """
    if not layers:
        return
    deepest = max(depth(name, 0) for name, _ in model.named_parameters())
    if layers > deepest:
        raise ConfigError(f"cannot freeze {layers} of {deepest} layers", remedy="Lower --freeze_layers.")
    for name, parameter in model.named_parameters():
        if depth(name, deepest) <= layers:
            parameter.requires_grad_(False)


def schedule(step: int, steps: int, config: OptimConfig) -> float:
    """The share of the peak rate for the update that follows `step` others, of `steps` in all."""
    warmup = round(config.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    last = max(0.0, 1 - (steps - step) / max(config.decay * steps, 1))  # share of the last phase that is over
    shapes: dict[str, float] = {
        "linear": 1 - done,
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "polynomial": (1 - done) ** config.power,
        "constant": 1.0,
        "wsd": 1 - last,
        "sqrt": 1 - math.sqrt(last),
    }
    shape = shapes[config.schedule]
    return shape if config.schedule == "constant" else config.final + (1 - config.final) * shape
