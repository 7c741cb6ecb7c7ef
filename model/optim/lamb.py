"""LAMB, for very large batches."""

from typing import Any

import torch
from torch import Tensor

from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.moments import Moments

try:
    from apex.optimizers import FusedLAMB  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # built from source by those who want it
    FusedLAMB = None


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
    """Make it over parameter groups; apex's fused one on a GPU, where that is installed."""
    if FusedLAMB is None or not torch.cuda.is_available():
        return Lamb(groups, config.lr, config.betas, config.eps)
    fused: torch.optim.Optimizer = FusedLAMB(
        groups, lr=config.lr, betas=config.betas, eps=config.eps, max_grad_norm=0.0
    )
    return fused
