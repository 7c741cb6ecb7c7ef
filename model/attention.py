"""Attention over packed sequences: no token sees another document, and padding is not computed where that can be avoided.

On CPU a loop of fused attention, one sequence at a time, is the fastest of what was measured (16 sequences, 2,980 tokens, forward and
backward, fp32: loop 118 ms, padded with mask 261, dense block-diagonal mask 483, nested tensors 1,986); sequences of one length go
through in a single call. On a GPU with a variable-length kernel (compute capability 8.0, 16-bit) that is used, else the
padded form, which every GPU has.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from biolm.model.packed import Packed, pad

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch < 2.10
    varlen_attn = None  # type: ignore[assignment]


def attention(
    q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, packed: Packed, dropout: float, window: int | None = None
) -> Tensor:
    """Scaled dot-product attention within each sequence: [t, n, d].

    Args:
        q_tnd: Queries; keys and values have the same shape.
        packed: Where sequences begin.
        dropout: Probability of dropping an attention weight; 0 outside training.
        window: Tokens on each side that a token sees; None for all of its sequence.
    """
    if window is not None and packed.max_seqlen <= window + 1:
        window = None
    if len(set(packed.lengths)) == 1:
        return _equal(q_tnd, k_tnd, v_tnd, len(packed.lengths), dropout, window)
    if q_tnd.device.type == "cpu":
        return _loop(q_tnd, k_tnd, v_tnd, packed, dropout, window)
    if varlen_attn is not None and dropout == 0 and _has_varlen_kernel(q_tnd):
        cu, longest = packed.cu_seqlens, packed.max_seqlen
        sides = (-1, -1) if window is None else (window, window)
        out = varlen_attn(q_tnd, k_tnd, v_tnd, cu, cu, longest, longest, window_size=sides)
        assert isinstance(out, Tensor)
        return out
    return padded(q_tnd, k_tnd, v_tnd, packed, dropout, window)


def _has_varlen_kernel(x: Tensor) -> bool:
    return x.dtype in (torch.float16, torch.bfloat16) and torch.cuda.get_device_capability(x.device) >= (8, 0)


def _band(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Which pairs of positions see each other, [l, l], or None for all."""
    if window is None or length <= window + 1:
        return None
    position = torch.arange(length, device=device)
    return (position[:, None] - position).abs() <= window


def _equal(q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, b: int, dropout: float, window: int | None) -> Tensor:
    t, n, d = q_tnd.shape
    q, k, v = (x.view(b, t // b, n, d).transpose(1, 2) for x in (q_tnd, k_tnd, v_tnd))
    band = _band(t // b, window, q.device)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=band, dropout_p=dropout)
    return out.transpose(1, 2).reshape(t, n, d)


def _loop(q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, packed: Packed, dropout: float, window: int | None) -> Tensor:
    rows = (
        x.transpose(0, 1)[None] for x in (q_tnd, k_tnd, v_tnd)
    )  # fused attention wants four dimensions: [1, n, t, d]
    split = [torch.split(row, list(packed.lengths), dim=2) for row in rows]
    bands = (_band(length, window, q_tnd.device) for length in packed.lengths)
    parts = [
        F.scaled_dot_product_attention(q, k, v, attn_mask=band, dropout_p=dropout)
        for q, k, v, band in zip(*split, bands, strict=True)
    ]
    return torch.cat(parts, dim=2)[0].transpose(0, 1)


def padded(
    q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, packed: Packed, dropout: float, window: int | None = None
) -> Tensor:
    """The same by padding and a mask, for devices without a variable-length kernel."""
    q, k, v = (pad(x, packed.lengths).transpose(1, 2) for x in (q_tnd, k_tnd, v_tnd))  # [b, n, l, d]
    lengths_b = torch.tensor(packed.lengths, device=q.device)
    real_bl = torch.arange(packed.max_seqlen, device=q.device) < lengths_b[:, None]
    seen = real_bl[:, None, None, :]
    band = _band(packed.max_seqlen, window, q.device)
    if band is not None:
        seen = seen & band | torch.eye(
            packed.max_seqlen, dtype=torch.bool, device=q.device
        )  # padding sees itself: no empty row
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)
    return out.transpose(1, 2)[real_bl]
