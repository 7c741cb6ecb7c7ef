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


def attention(q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, packed: Packed, dropout: float) -> Tensor:
    """Scaled dot-product attention within each sequence: [t, n, d].

    Args:
        q_tnd: Queries; keys and values have the same shape.
        packed: Where sequences begin.
        dropout: Probability of dropping an attention weight; 0 outside training.
    """
    if len(set(packed.lengths)) == 1:
        return _equal(q_tnd, k_tnd, v_tnd, len(packed.lengths), dropout)
    if q_tnd.device.type == "cpu":
        return _loop(q_tnd, k_tnd, v_tnd, packed, dropout)
    if varlen_attn is not None and dropout == 0 and _has_varlen_kernel(q_tnd):
        cu = packed.cu_seqlens
        out = varlen_attn(q_tnd, k_tnd, v_tnd, cu, cu, packed.max_seqlen, packed.max_seqlen)
        assert isinstance(out, Tensor)
        return out
    return padded(q_tnd, k_tnd, v_tnd, packed, dropout)


def _has_varlen_kernel(x: Tensor) -> bool:
    return x.dtype in (torch.float16, torch.bfloat16) and torch.cuda.get_device_capability(x.device) >= (8, 0)


def _equal(q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, b: int, dropout: float) -> Tensor:
    t, n, d = q_tnd.shape
    q, k, v = (x.view(b, t // b, n, d).transpose(1, 2) for x in (q_tnd, k_tnd, v_tnd))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).reshape(t, n, d)


def _loop(q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, packed: Packed, dropout: float) -> Tensor:
    rows = (
        x.transpose(0, 1)[None] for x in (q_tnd, k_tnd, v_tnd)
    )  # fused attention wants four dimensions: [1, n, t, d]
    split = [torch.split(row, list(packed.lengths), dim=2) for row in rows]
    parts = [F.scaled_dot_product_attention(q, k, v, dropout_p=dropout) for q, k, v in zip(*split, strict=True)]
    return torch.cat(parts, dim=2)[0].transpose(0, 1)


def padded(q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, packed: Packed, dropout: float) -> Tensor:
    """The same by padding and a mask, for devices without a variable-length kernel."""
    q, k, v = (pad(x, packed.lengths).transpose(1, 2) for x in (q_tnd, k_tnd, v_tnd))  # [b, n, l, d]
    lengths_b = torch.tensor(packed.lengths, device=q.device)
    real_bl = torch.arange(packed.max_seqlen, device=q.device) < lengths_b[:, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=real_bl[:, None, None, :], dropout_p=dropout)
    return out.transpose(1, 2)[real_bl]
