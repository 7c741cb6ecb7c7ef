"""Linear layers whose products on an x86 CPU are oneDNN's.

torch multiplies float32 by MKL, which is slow on processors that are not Intel's: 2,048 × 768 by 768 × 3,072 on one core of an AMD EPYC,
forward 96 GFLOP/s by MKL and up to 170 by oneDNN, the weights' gradient up to 210. In 16 bits torch takes oneDNN by itself, but with a
bias it first copies that to every row: 387 GFLOP/s instead of 426.
"""

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _dtypes() -> set[torch.dtype]:
    """What oneDNN multiplies here."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return set()
    return {torch.float32, torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else {torch.float32}


DTYPES = _dtypes()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weightᵀ + bias: [t, h] → [t, outputs], in the precision of autocast."""
    cast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if cast else x.dtype
    if x.device.type != "cpu" or dtype not in DTYPES or x.ndim != 2 or not len(x) or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    if cast:
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    with torch.autocast("cpu", enabled=False):
        return _OneDnn.apply(x, weight, bias)  # type: ignore[no-any-return, no-untyped-call]


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weightᵀ + bias by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a b of two matrices; in 16 bits torch takes oneDNN by itself, and copies less."""
    by_name = a.device.type == "cpu" and a.dtype == torch.float32 and a.dtype in DTYPES
    return _product(a, b.t()) if by_name else a @ b


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
            matmul(grad, weight) if needs_x else None,
            matmul(grad.t(), x) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
        )


class Linear(nn.Linear):
    """`nn.Linear` for inputs [t, h]."""

    def forward(self, x: Tensor) -> Tensor:
        """[t, h] → [t, outputs]."""
        return linear(x, self.weight, self.bias)
