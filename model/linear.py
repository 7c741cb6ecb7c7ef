"""Linear layers whose float32 products on an x86 CPU are oneDNN's.

torch multiplies float32 by MKL, which is slow on processors that are not Intel's: 2,048 × 768 by 768 × 3,072 on one core of an AMD EPYC,
forward 96 GFLOP/s by MKL and up to 170 by oneDNN, the weights' gradient up to 210. In 16 bits torch takes oneDNN by itself.
"""

import platform
from typing import Any

import torch
from torch import Tensor, nn

HAS_ONEDNN = platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weightᵀ + bias by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


class _OneDnn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), grad = ctx.saved_tensors, grads[0].contiguous()
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _product(grad, weight.t(), None) if needs_x else None,
            _product(grad.t(), x.t(), None) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
        )


class Linear(nn.Linear):
    """`nn.Linear` for inputs [t, h]."""

    def forward(self, x: Tensor) -> Tensor:
        """[t, h] → [t, outputs]."""
        if not (HAS_ONEDNN and x.dtype == torch.float32 and x.device.type == "cpu" and x.ndim == 2 and len(x)):
            return super().forward(x)
        if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return super().forward(x)
        return _OneDnn.apply(x, self.weight, self.bias)  # type: ignore[no-any-return, no-untyped-call]
