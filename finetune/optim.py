"""AdamW for fine-tuning: warm-up, linear or cosine decay; no weight decay on biases and norms; on request lower rates in lower layers."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from biolm.core.errors import CheckpointError
from biolm.finetune.config import OptimConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW:
    """torch's AdamW over a model's trainable parameters, its state under their names.

    Args:
        model: Names and parameters; `layers.N` in a name says how deep it sits.
        layers: Transformer layers.
        config: Rates and moments.
        steps: Optimiser steps of the whole run.
    """

    def __init__(self, model: nn.Module, layers: int, config: OptimConfig, steps: int):
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.config, self.steps = config, steps
        groups: dict[
            tuple[float, float], list[nn.Parameter]
        ] = {}  # one for all of the same settings: the kernel runs once
        for name, p in self.named.items():
            scale = config.layer_decay ** (layers + 1 - depth(name, layers))
            groups.setdefault((scale, config.weight_decay if p.ndim > 1 else 0.0), []).append(p)
        self.inner = torch.optim.AdamW(
            [{"params": ps, "scale": scale, "weight_decay": decay} for (scale, decay), ps in groups.items()],
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            fused=True,
        )

    def step(self, step: int) -> float:
        """Update after `step` earlier updates and clear the gradients; the learning rate of the head."""
        rate = self.config.lr * schedule(step, self.steps, self.config)
        for group in self.inner.param_groups:
            group["lr"] = rate * group["scale"]
        nn.utils.clip_grad_norm_(self.named.values(), self.config.clip or math.inf)
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)
        return rate

    def tensors(self) -> dict[str, Tensor]:
        """Moments by `<moment>.<parameter>`."""
        return {f"{m}.{name}": self.inner.state[p][m] for name, p in self.named.items() for m in MOMENTS}

    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Restore moments after `step` updates.

        Raises:
            CheckpointError: A parameter's moments are missing.
        """
        for name, parameter in self.named.items():
            if any(f"{m}.{name}" not in tensors for m in MOMENTS):
                raise CheckpointError(f"the optimizer's state lacks {name}", remedy="Give another --out.")
            moments = {m: tensors[f"{m}.{name}"].to(parameter) for m in MOMENTS}
            self.inner.state[parameter] = {"step": torch.tensor(float(step), device=parameter.device), **moments}


def depth(name: str, layers: int) -> int:
    """How far above the embeddings a parameter sits: 0 for these, N + 1 for layer N, `layers` + 1 for the head."""
    if match := re.search(r"\blayers\.(\d+)\.", name):
        return int(match[1]) + 1
    return 0 if "embedding" in name else layers + 1


def schedule(step: int, steps: int, config: OptimConfig) -> float:
    """The share of the peak rate for the update that follows `step` others: up to 1 over the warm-up, then down to 0."""
    rising = round(config.warmup * steps)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(steps - rising, 1)
    return 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
