"""StableAdamW, with which ModernBERT was trained."""

from typing import Any

import torch
from torch import Tensor

from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.moments import Moments


class StableAdamW(Moments):
    """AdamW whose rate falls where the gradient outgrows its running mean square (Wortsman et al. 2023, arXiv 2304.13013).

    A tensor's rate is divided by the root mean square of gradient / √exp_avg_sq, if that is above 1: AdaFactor's clipping of the update.
    ModernBERT was trained with it.
    """

    def _move(self, group: dict[str, Any], params: list[Tensor], mean: list[Tensor], square: list[Tensor]) -> None:
        eps = group["eps"]
        grads = [p.grad for p in params if p.grad is not None]
        outgrown = list(torch._foreach_div(grads, list(torch._foreach_sqrt(torch._foreach_clamp_min(square, eps**2)))))
        torch._foreach_div_(
            outgrown, [ratio.numel() ** 0.5 for ratio in outgrown]
        )  # its norm is the root mean square then
        direction = self.direction(mean, square, eps)
        if group["weight_decay"]:
            torch._foreach_add_(direction, params, alpha=group["weight_decay"])
        self.subtract(params, direction, group["lr"] / self.lengths(outgrown).clamp(min=1))


def build(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """Make it over parameter groups."""
    return StableAdamW(groups, config.lr, config.betas, config.eps)
