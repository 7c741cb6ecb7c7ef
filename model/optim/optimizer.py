"""The optimiser with the field's parameter groups, its schedules, and its state under parameter names, for every room that trains."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from biomlm.core.errors import CheckpointError, ConfigError
from biomlm.core.verbs import load
from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.registry import OPTIMISERS

EMA = "ema"


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
        row = OPTIMISERS[config.name]
        self.inner: torch.optim.Optimizer = load(row.build_at)(settings, config)
        self.state_names = row.state
        self.mean: dict[str, Tensor] = {}  # of the weights, where `ema` asks for it
        self.mean_before = 0  # steps of earlier runs that are in it
        self.lr_factor = 1.0  # what the schedule's rate is multiplied by

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
        """Clip gradients of this norm, update in the step that follows `step` others and clear the gradients; the head's rate."""
        rate = self.lr_factor * self.config.lr * schedule(step, self.steps, self.config)
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
        """Put the running mean in the place of the weights."""
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
        for parameter in self.named.values():
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the optimiser's state by `<name>.<parameter>`, and the running mean of the weights."""
        state = self.inner.state
        moments = {f"{m}.{name}": state[p][m] for name, p in self.named.items() if p in state for m in self.state_names}
        return moments | {f"{EMA}.{name}": mean for name, mean in self.mean.items()}

    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Restore the optimizer state after `step` updates.

        Raises:
            CheckpointError: A parameter's state is missing.
        """
        for name, parameter in self.named.items():
            if any(f"{m}.{name}" not in tensors for m in self.state_names):
                raise CheckpointError(
                    f"the optimizer's state lacks {name}",
                    remedy="Start a new run with --init and this checkpoint's model.",
                )
            self.inner.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                **{m: tensors[f"{m}.{name}"].to(parameter) for m in self.state_names},
            }
        if self.config.ema and all(f"{EMA}.{name}" in tensors for name in self.named):
            self.mean = {name: tensors[f"{EMA}.{name}"].to(p) for name, p in self.named.items()}
        for group in self.inner.param_groups:
            if "step" in group:  # where our own optimisers and apex count
                group["step"] = step


def depth(name: str, layers: int) -> int:
    """Tell how far above the embeddings a parameter sits: 0 for these, N + 1 for layer N, `layers` + 1 for the head."""
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
    """Return the share of the peak rate for the step that follows `step` others, those left out among them, of `steps` in all."""
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
