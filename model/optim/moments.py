"""What optimisers like Adam have in common, with the moments of torch's AdamW, all tensors of a group at once.

They keep `exp_avg` and `exp_avg_sq` without the bias of their zero start: the decay of step t is β (1 - β^(t-1)) / (1 - β^t), which gives
at every step what dividing by 1 - β^t would. Steps are counted on the host, a group's in `step` as apex does: a count on the device would
have to be read for every group.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class Moments(torch.optim.Optimizer, ABC):
    """Adam's two moments; a subclass computes the update from them."""

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "step": 0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            states = [self._state(p) for p in params]
            t = group["step"] = group["step"] + 1
            first, second = (beta * (1 - beta ** (t - 1)) / (1 - beta**t) for beta in group["betas"])
            mean, square = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
            torch._foreach_lerp_(mean, grads, 1 - first)
            torch._foreach_mul_(square, second)
            torch._foreach_addcmul_(square, grads, grads, 1 - second)
            self._move(group, params, mean, square)

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        return state

    @abstractmethod
    def _move(self, group: dict[str, Any], params: list[Tensor], mean: list[Tensor], square: list[Tensor]) -> None:
        """Update a group's parameters from the new moments."""

    @staticmethod
    def lengths(tensors: list[Tensor]) -> Tensor:
        """Compute the norm of each tensor, [tensors], of sharded ones the whole's."""
        norms = torch.stack(torch._foreach_norm(tensors))
        return norms.full_tensor() if isinstance(norms, DTensor) else norms

    @staticmethod
    def subtract(params: list[Tensor], directions: list[Tensor], rates: Tensor) -> None:
        """Move each parameter against its direction by its own rate, [tensors], which stays on the device: a kernel for each."""
        torch._foreach_addcmul_(params, directions, list(rates.unbind()), value=-1.0)

    @staticmethod
    def direction(mean: list[Tensor], square: list[Tensor], eps: float) -> list[Tensor]:
        """Compute Adam's direction: the mean over the root of the mean square."""
        root = torch._foreach_sqrt(square)
        torch._foreach_add_(root, eps)
        return list(torch._foreach_div(mean, root))
