"""AdamW as torch fuses it."""

from typing import Any

import torch

from biomlm.model.optim.config import OptimConfig


def build(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """Make it over parameter groups."""
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
