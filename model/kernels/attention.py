"""Attention over packed sequences: no token sees another document, and padding is not computed where that can be avoided.

One meaning, several kernels, equal in a parity test; which is best depends on the device, the precision and whether there is dropout:

| kernel | what it is | when `auto` takes it |
|---|---|---|
| `blocks` | `model.kernels.attention_cpu`, tile by tile | CPU, 16-bit or with dropout, and every layer with a window |
| `loop` | torch's fused attention, sequence by sequence | CPU, float32 without dropout |
| `flash` | flash-attn's variable-length kernel | GPU of compute capability 8.0 or later, 16-bit, where that package is installed |
| `varlen` | torch's own copy of that kernel | the same without the package |
| `efficient` | torch's memory-efficient kernel on packed rows, without dropout and window | every other GPU, without these |
| `padded` | `model.kernels.attention_padded`, on groups of like length, and on chunks under a window | every other GPU, with these |
| `flex` | torch's FlexAttention with a block mask, compiled; no dropout | never: give it by name |
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from biomlm.core.errors import ConfigError
from biomlm.model.config import Kernel
from biomlm.model.kernels.attention_cpu import packed_attention
from biomlm.model.kernels.attention_padded import Rows, padded_attention
from biomlm.model.packed import Packed, Spans

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

try:
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # an extra that has to be compiled for the GPU at hand
    flash_attn_varlen_func = None


def attention(
    q_tnd: Tensor,
    k_tnd: Tensor,
    v_tnd: Tensor,
    packed: Packed,
    dropout: float,
    window: int | None = None,
    kernel: Kernel = "auto",
) -> Tensor:
    """Compute scaled dot-product attention within each sequence: [t, n, d].

    Args:
        q_tnd: Queries; keys and values have the same shape.
        packed: Where sequences begin.
        dropout: Probability of dropping an attention weight; 0 outside training.
        window: Tokens on each side that a token sees; None for all of its sequence.
        kernel: One that `check` has passed.
    """
    if window is not None and packed.max_seqlen <= window + 1:
        window = None
    if kernel == "auto":
        kernel = pick(q_tnd.device, q_tnd.dtype, dropout, window)
        if q_tnd.device.type == "cuda" and window is None and len(set(packed.lengths)) == 1:
            return _equal((q_tnd, k_tnd, v_tnd), packed, dropout)
    return KERNELS[kernel]((q_tnd, k_tnd, v_tnd), packed, dropout, window)


def traced_attention(
    q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, spans: Spans, dropout: float, window: int | None, kernel: Kernel
) -> Tensor:
    """Compute the same inside a compiled graph, by one of the kernels in `TRACED`."""
    return TRACED[kernel]((q_tnd, k_tnd, v_tnd), spans, dropout, window)


def pick(device: torch.device, dtype: torch.dtype, dropout: float, window: int | None = None) -> Kernel:
    """Choose the kernel that `auto` stands for.

    Args:
        device: Where it runs.
        dtype: Of queries, keys and values.
        dropout: On attention weights.
        window: Tokens on each side that a token sees; None for all of its sequence.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    if device.type == "cpu":
        return "blocks" if half or dropout or window is not None else "loop"
    if half and _capability(device) >= (8, 0):
        return "varlen" if flash_attn_varlen_func is None else "flash"
    return "padded" if dropout or window is not None else "efficient"


def check(kernel: Kernel, device: torch.device, dtype: torch.dtype, dropout: float) -> None:
    """Refuse a kernel that cannot run here.

    Raises:
        ConfigError: It needs another device, precision or package, or has no dropout.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    gpu = device.type == "cuda" and half and _capability(device) >= (8, 0)
    problems = {
        "blocks": [] if device.type == "cpu" else ["runs on a CPU only"],
        "flash": ([] if gpu else ["needs a GPU of compute capability 8.0 and 16-bit numbers"])
        + ([] if flash_attn_varlen_func else ["needs the package flash-attn"]),
        "varlen": [] if gpu else ["needs a GPU of compute capability 8.0 and 16-bit numbers"],
        "efficient": ([] if device.type == "cuda" else ["runs on a GPU only"])
        + (["has no dropout"] if dropout else []),
        "flex": ["has no dropout"] if dropout else [],
    }.get(kernel, [])
    if problems:
        raise ConfigError(f"attention kernel {kernel} {problems[0]}", remedy="Leave --compute.attention at auto.")


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def band(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Tell which pairs of positions attend to each other, [l, l]; None for all."""
    if window is None or length <= window + 1:
        return None
    position = torch.arange(length, device=device)
    return (position[:, None] - position).abs() <= window


def _equal(rows: Rows, packed: Packed, dropout: float) -> Tensor:
    """Compute attention over sequences of one length, in a single call without any mask."""
    b, (t, n, d) = len(packed.lengths), rows[0].shape
    q, k, v = (x.view(b, t // b, n, d).transpose(1, 2) for x in rows)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).reshape(t, n, d)


def _blocks(rows: Rows, packed: Packed, dropout: float, window: int | None) -> Tensor:
    return packed_attention(*rows, packed.lengths, dropout, window)


def _loop(rows: Rows, packed: Packed, dropout: float, window: int | None) -> Tensor:
    heads = (x.transpose(0, 1)[None] for x in rows)  # fused attention wants four dimensions: [1, n, t, d]
    split = [torch.split(row, list(packed.lengths), dim=2) for row in heads]
    bands = (band(length, window, rows[0].device) for length in packed.lengths)
    parts = [
        F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)
        for q, k, v, seen in zip(*split, bands, strict=True)
    ]
    return torch.cat(parts, dim=2)[0].transpose(0, 1)


def _padded(rows: Rows, packed: Packed, dropout: float, window: int | None) -> Tensor:
    return padded_attention(rows, packed, dropout, window)


def _efficient(rows: Rows, packed: Packed, dropout: float, window: int | None) -> Tensor:
    """Call the operation that torch's attention over nested tensors calls.

    It takes a dropout and a window too, and does both wrongly on packed rows. For the place of random numbers its forward pass takes the
    longest sequence as 0 and its backward pass as what it is, so that all heads share one mask and their gradients have another; a
    window holds for causal masks only, and autograd's formula leaves it out (attention.cu, attention_backward.cu and
    derivatives.yaml of torch 2.6 to 2.13). `check` and `pick` keep dropout away.
    """
    assert not dropout
    if window is not None:
        return _padded(rows, packed, dropout, window)
    cu_seqlens, longest = packed.cu_seqlens, packed.max_seqlen
    no_bias, no_mask, saves = None, 0, torch.is_grad_enabled() and any(x.requires_grad for x in rows)
    out, *_ = torch.ops.aten._efficient_attention_forward(
        *(x[None] for x in rows), no_bias, cu_seqlens, cu_seqlens, longest, longest, dropout, no_mask, saves
    )
    assert isinstance(out, Tensor)
    return out[0]


def _varlen(rows: Rows, packed: Packed | Spans, dropout: float, window: int | None) -> Tensor:
    """Call the operation under `torch.nn.attention.varlen`, which itself has no dropout."""
    cu_seqlens, longest = packed.cu_seqlens, packed.max_seqlen
    side = -1 if window is None else window
    flash = torch.ops.aten._flash_attention_forward
    causal, debug = False, False
    out, *_ = flash(
        *rows,
        *(cu_seqlens, cu_seqlens, longest, longest),
        *(dropout, causal, debug),
        window_size_left=side,
        window_size_right=side,
    )
    assert isinstance(out, Tensor)
    return out


def _flash(rows: Rows, packed: Packed | Spans, dropout: float, window: int | None) -> Tensor:
    cu_seqlens, longest = packed.cu_seqlens, packed.max_seqlen
    sides = (-1, -1) if window is None else (window, window)
    out = flash_attn_varlen_func(
        *rows,
        *(cu_seqlens, cu_seqlens, longest, longest),
        dropout_p=dropout,
        window_size=sides,
        deterministic=torch.are_deterministic_algorithms_enabled(),  # torch's own copy looks itself
    )
    assert isinstance(out, Tensor)
    return out


def _flex(rows: Rows, packed: Packed, dropout: float, window: int | None) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    assert not dropout
    mask = _flex_mask(packed.lengths, window, rows[0].device)
    run: Any = _compiled(flex_attention) if rows[0].device.type == "cuda" else flex_attention
    q, k, v = (x.transpose(0, 1)[None] for x in rows)
    out = run(q, k, v, block_mask=mask)
    assert isinstance(out, Tensor)
    return out[0].transpose(0, 1)


@cache
def _compiled(function: Any) -> Any:
    return torch.compile(function)


@lru_cache(maxsize=4)
def _flex_mask(lengths: tuple[int, ...], window: int | None, device: torch.device) -> "BlockMask":
    """Make the block mask, once for each micro-batch and window, for all layers."""
    from torch.nn.attention.flex_attention import create_block_mask

    counts = torch.tensor(lengths, device=device)
    document_t = torch.arange(len(lengths), device=device).repeat_interleave(counts)

    def seen(_b: Tensor, _n: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = document_t[query] == document_t[key]
        return same if window is None else same & ((query - key).abs() <= window)

    t, fused = sum(lengths), device.type == "cuda"  # not fused it makes all pairs of tokens
    return create_block_mask(seen, None, None, t, t, device=str(device), _compile=fused)


KERNELS: dict[str, Callable[[Rows, Packed, float, int | None], Tensor]] = {
    "blocks": _blocks,
    "loop": _loop,
    "flash": _flash,
    "varlen": _varlen,
    "efficient": _efficient,
    "padded": _padded,
    "flex": _flex,
}
TRACED: dict[str, Callable[[Rows, Spans, float, int | None], Tensor]] = {"flash": _flash, "varlen": _varlen}
assert {"auto", *KERNELS} == set(get_args(Kernel))
