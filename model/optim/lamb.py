"""LAMB, for very large batches."""

from typing import Any

import torch
from torch import Tensor

from biomlm.model.optim import apex
from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.moments import Moments


class Lamb(Moments):
    """AdamW's direction, decay included, scaled for every tensor to the length of its weights (You et al. 2020, arXiv 1904.00962).

    As in NVIDIA's FusedLAMB, tensors without decay (biases and norms) take the plain step.
    """

    def _move(self, group: dict[str, Any], params: list[Tensor], mean: list[Tensor], square: list[Tensor]) -> None:
        direction = self.direction(mean, square, group["eps"])
        if group["weight_decay"]:
            torch._foreach_add_(direction, params, alpha=group["weight_decay"])
            of_weights, of_steps = self.lengths(params), self.lengths(direction)
            trust = torch.where((of_weights > 0) & (of_steps > 0), of_weights / of_steps, 1.0)
            self.subtract(params, direction, group["lr"] * trust)
        else:
            torch._foreach_add_(params, direction, alpha=-group["lr"])


def build(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """Make it over parameter groups; by option apex's fused one, whose clipping is off, since the gradient is clipped already."""
    if config.apex:
        settings = {"lr": config.lr, "betas": config.betas, "eps": config.eps, "max_grad_norm": 0.0}
        return apex.build("FusedLAMB", groups, settings)
    return Lamb(groups, config.lr, config.betas, config.eps)
