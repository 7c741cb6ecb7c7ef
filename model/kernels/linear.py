"""Linear layers whose products on an x86 CPU are oneDNN's.

torch multiplies float32 by MKL, which is slow on processors that are not Intel's: 3,968 × 768 by 768 × 3,072 on two cores of an AMD
EPYC in 98 ms by MKL, 48 by oneDNN, and 45 with the weight in the layout that it likes, laying out included. The input's gradient takes
57 and 47, the weight's 61 as a product, which copies both sides, and 48 by oneDNN's own operation. In 16 bits torch takes oneDNN by
itself, but with a bias it first copies that to every row: 387 GFLOP/s instead of 426.
"""

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _dtypes() -> set[torch.dtype]:
    """List the types that oneDNN multiplies here."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return set()
    return {torch.float32, torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else {torch.float32}


DTYPES = _dtypes()
ROWS = 1024  # from which on a float32 weight is laid out for oneDNN


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute x weightᵀ + bias: [t, h] → [t, outputs], in the precision of autocast."""
    cast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if cast else x.dtype
    if x.device.type != "cpu" or dtype not in DTYPES or x.ndim != 2 or not len(x) or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    if cast:
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    with torch.autocast("cpu", enabled=False):
        return _OneDnn.apply(x, weight, bias)  # type: ignore[no-any-return, no-untyped-call]


def _worth(weight: Tensor, rows: int) -> bool:
    """Whether laying out for oneDNN pays: in float32, for many rows, and not of a vocabulary, which is too large to be copied each time."""
    return weight.dtype == torch.float32 and rows >= ROWS and max(weight.shape) <= 8 * min(weight.shape)


def _laid_out(weight: Tensor, rows: int) -> Tensor:
    """Return the weight in oneDNN's own layout, where that pays; of a square one 768 wide it does not."""
    outputs, inputs = weight.shape
    if outputs == inputs or not _worth(weight, rows):
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)  # type: ignore[no-any-return]


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x weightᵀ + bias by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply two matrices; in 16 bits torch takes oneDNN by itself, and copies less."""
    by_name = a.device.type == "cpu" and a.dtype == torch.float32 and a.dtype in DTYPES
    return _product(a, b.t()) if by_name else a @ b


class _OneDnn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, _laid_out(weight, len(x)), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), grad = ctx.saved_tensors, grads[0].contiguous()
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        dx = _input_gradient(grad, weight) if needs_x else None
        dweight, dbias = _weight_gradients(grad, x, weight, needs_bias) if needs_weight else (None, None)
        return dx, dweight, grad.sum(0) if needs_bias and dbias is None else dbias


def _input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Multiply grad weight."""
    outputs, inputs = weight.shape
    if outputs <= inputs or not _worth(weight, len(grad)):
        return matmul(grad, weight)
    return _product(grad, _laid_out(weight.t(), len(grad)))


def _weight_gradients(grad: Tensor, x: Tensor, weight: Tensor, bias: bool) -> tuple[Tensor, Tensor | None]:
    """Multiply gradᵀ x, and return the sum of grad too where oneDNN computes it anyway."""
    if not _worth(weight, len(x)):
        return matmul(grad.t(), x), None
    own_grad, own_x = grad.to_mkldnn(), x.to_mkldnn()
    dweight, dbias = torch.ops.aten.mkldnn_linear_backward_weights(own_grad, own_x, weight, bias)
    return dweight, dbias if bias else None


class Linear(nn.Linear):
    """`nn.Linear` for inputs [t, h]."""

    lent: tuple[Tensor, Tensor | None] | None = None  # weight and bias as `model.half_weights` lends them

    def forward(self, x: Tensor) -> Tensor:
        """Compute [t, h] → [t, outputs]."""
        return linear(x, self.weight, self.bias) if self.lent is None else linear(x, *self.lent)
