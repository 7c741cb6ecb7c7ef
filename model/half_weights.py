"""16-bit copies of linear layers' weights, made once a step.

Autocast makes them anew in each micro-batch, tensor by tensor: of an encoder layer's 23 kernels 8, and in the backward pass 8 again for
their gradients. Here a layer has one copy in each direction (torch's `foreach` operations take all tensors in one kernel), the forward
one once a step. The figures are autocast's, bit by bit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from biomlm.model.encoder import EncoderModel
from biomlm.model.kernels.linear import Linear

Copies = list[tuple[Tensor, Tensor | None]]  # of each layer's weight and bias


class HalfWeights:
    """The copies of one model.

    Args:
        model: Whose linear layers take them.
        dtype: Of the copies.
    """

    def __init__(self, model: EncoderModel, dtype: torch.dtype):
        self.dtype = dtype
        layers = list(model.encoder.layers)
        inside = {module for layer in layers for module in layer.modules()}
        rest = [module for module in model.modules() if module not in inside]
        parts = [*(list(layer.modules()) for layer in layers), rest]
        # A group's gradients are cast when the last of them is there: by layers, so that an all-reduce need not wait for the first.
        self.groups = [[module for module in part if isinstance(module, Linear)] for part in parts]
        self.copies: list[Copies] = []

    def forget(self) -> None:
        """Have the copies made anew: the weights have moved."""
        self.copies = []

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Have the layers multiply by the copies; the backward pass belongs inside, since recomputed layers run in it."""
        self.copies = self.copies or [_copies(group, self.dtype) for group in self.groups]
        for group, copies in zip(self.groups, self.copies, strict=True):
            for linear, half in zip(group, copies, strict=True):
                linear.lent = half
        try:
            yield
        finally:
            for linear in (linear for group in self.groups for linear in group):
                linear.lent = None


def _copies(group: Sequence[Linear], dtype: torch.dtype) -> Copies:
    """Copy weights and biases of some layers in one operation, through which gradients find their way to the parameters."""
    parameters = [p for linear in group for p in (linear.weight, linear.bias) if p is not None]
    copies = iter(_Copy.apply(dtype, *parameters) if parameters else ())  # type: ignore[no-untyped-call]
    return [(next(copies), None if linear.bias is None else next(copies)) for linear in group]


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    casts = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(casts, list(tensors))
    return casts


class _Copy(torch.autograd.Function):
    """Nothing is saved for the backward pass, so that one forward pass serves the backward passes of all micro-batches of a step."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.to = parameters[0].dtype
        return tuple(_cast(parameters, dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        casts = iter(_cast([grad for grad in grads if grad is not None], ctx.to))
        return None, *(None if grad is None else next(casts) for grad in grads)
