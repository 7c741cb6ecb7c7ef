"""AdamW with the field's parameter groups, its schedule, and its state under parameter names."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from biolm.core.errors import CheckpointError
from biolm.pretrain.config import OptimConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW:
    """torch's fused AdamW over named parameters; biases and norms (one-dimensional tensors) are not decayed.

    Args:
        named: Parameter name → parameter.
        config: Rates and moments.
        steps: Optimiser steps of the whole run, which the schedule is stretched over.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], config: OptimConfig, steps: int):
        self.named, self.config, self.steps = dict(named), config, steps
        decayed = [p for p in named.values() if p.ndim > 1]
        plain = [p for p in named.values() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.inner = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)

    def step(self, step: int) -> tuple[float, float]:
        """Update after `step` earlier updates and clear the gradients; the gradient's norm and the learning rate used."""
        rate = self.config.lr * schedule(step, self.steps, self.config)
        for group in self.inner.param_groups:
            group["lr"] = rate
        limit = self.config.clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.named.values(), limit)
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)
        return float(norm), rate

    def tensors(self) -> dict[str, Tensor]:
        """Moments by `<moment>.<parameter>`."""
        state = self.inner.state
        return {f"{m}.{name}": state[p][m] for name, p in self.named.items() if p in state for m in MOMENTS}

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
