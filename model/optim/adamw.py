"""AdamW as torch fuses it, or apex."""

from typing import Any

import torch

from biomlm.model.optim import apex
from biomlm.model.optim.config import OptimConfig


def build(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """Make it over parameter groups; by option apex's fused one."""
    if config.apex:
        return apex.build("FusedAdam", groups, {"lr": config.lr, "betas": config.betas, "eps": config.eps})
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
