"""NVIDIA apex's fused optimisers (github.com/NVIDIA/apex), by option where it has been built for CUDA.

They count a group's steps in `group["step"]`, which they make in their first step: made here, it is there for a checkpoint to be loaded
into. Their `zero_grad` takes no argument.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import torch

from biomlm.core.errors import ConfigError


def build(name: str, groups: list[dict[str, Any]], settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Make one over parameter groups.

    Args:
        name: Its class in `apex.optimizers`.
        groups: Of parameters.
        settings: What it is given beside them.

    Raises:
        ConfigError: There is no GPU, or no apex that was built for CUDA.
    """
    remedy = (
        "Leave out --optim.apex: torch's fused AdamW and our LAMB compute the same; or build apex (docs/install.md)."
    )
    if not torch.cuda.is_available():
        raise ConfigError("apex computes on a GPU only, and there is none", remedy=remedy)
    try:
        importlib.import_module("amp_C")
        fused = getattr(importlib.import_module("apex.optimizers"), name)
    except (ImportError, AttributeError):
        raise ConfigError(f"apex with {name} is not installed, or was built without CUDA", remedy=remedy) from None
    optimizer: torch.optim.Optimizer = fused(groups, **settings)
    for group in optimizer.param_groups:
        group.setdefault("step", 0)
    return optimizer
