"""Look into a layer: the queries, keys and values that its attention sees.

Shape suffixes: see `biomlm.model.packed`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from biomlm.model.encoder import Encoder
from biomlm.model.rotary import rotate

QKV = tuple[Tensor, Tensor, Tensor]


@contextmanager
def captured(encoder: Encoder, layer: int) -> Iterator[list[QKV]]:
    """Keep queries, keys and values of one layer, each [t, h], as its attention sees them in the next forward pass.

    Args:
        encoder: The encoder that will be run.
        layer: Counted from 1.
    """
    attention: Any = encoder.layers[layer - 1].attention
    captures: list[QKV] = []

    def project(_: nn.Module, __: tuple[Any, ...], qkv_t3h: Tensor) -> None:
        captures.append(qkv_t3h.chunk(3, dim=-1))  # type: ignore[arg-type]

    def turn(_: nn.Module, inputs: tuple[Any, ...], __: Tensor) -> None:
        rotary = inputs[2]
        if rotary is not None:
            q_th, k_th, v_th = captures.pop()
            heads = (attention.heads, attention.head_size)
            q_th, k_th = (rotate(x.view(len(x), *heads), rotary).flatten(1) for x in (q_th, k_th))
            captures.append((q_th, k_th, v_th))

    def cut(_: nn.Module, inputs: tuple[Any, ...], __: list[Tensor]) -> None:
        tokens = len(inputs[0].input_ids_t)  # behind them the encoder has put filler
        captures[:] = [(q_th[:tokens], k_th[:tokens], v_th[:tokens]) for q_th, k_th, v_th in captures]

    hooks = [attention.qkv.register_forward_hook(project), attention.register_forward_hook(turn)]
    hooks.append(encoder.register_forward_hook(cut))
    try:
        yield captures
    finally:
        for hook in hooks:
            hook.remove()
