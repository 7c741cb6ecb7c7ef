"""Attention on a CPU, a sequence at a time: no padding, and dropout that costs little.

torch's fused attention computes in float32 whatever the inputs are, and falls back to an unfused form when there is dropout. A
processor with bf16 products does them four times as fast, so the plain three steps (product, softmax, product) win. Four sequences
of 512 tokens, 12 heads, bf16, one core, forward and backward: fused 143 ms, with dropout 231 ms; here 50 and 67.

The probabilities [n, l, l] are kept for the backward pass with the mask in their sign: a probability that dropout removed is stored
negative. Then what remains is `relu`, the probability itself is `abs`, and the gradient's mask is relu's own.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from biolm.model.dropout import SIGN16, bits, drop_signs


def _heads(lengths: tuple[int, ...], *rows_tnd: Tensor) -> Iterator[list[Tensor]]:
    """Each sequence's part of the given rows as views [n, l, d]."""
    yield from (list(part) for part in zip(*(_split(rows, lengths) for rows in rows_tnd), strict=True))


def _split(rows_tnd: Tensor, lengths: tuple[int, ...]) -> list[Tensor]:
    return [part.transpose(0, 1) for part in torch.split(rows_tnd, list(lengths))]


def _drop(probability_nll: Tensor, p: float) -> Tensor:
    """Turn the sign of dropped probabilities, in place."""
    signs = drop_signs(probability_nll.shape, p).bitwise_and_(SIGN16)
    if probability_nll.element_size() == 4:
        signs = signs.to(torch.int32).bitwise_left_shift_(16)
    bits(probability_nll).bitwise_or_(signs)
    return probability_nll


def packed_attention(
    q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, lengths: tuple[int, ...], dropout: float, window: int | None
) -> Tensor:
    """softmax(q kᵀ / √d) v within each sequence: [t, n, d].

    Args:
        q_tnd: Queries; keys and values have the same shape.
        lengths: Tokens of each sequence.
        dropout: Probability of dropping a probability; held to 2^-16.
        window: Tokens on each side that a token sees; None for all.
    """
    with torch.autocast("cpu", enabled=False):  # the precision has been chosen: that of the inputs
        return _PackedAttention.apply(q_tnd, k_tnd, v_tnd, lengths, dropout, window)  # type: ignore[no-any-return, no-untyped-call]


class _PackedAttention(torch.autograd.Function):
    """`packed_attention` with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, lengths: tuple[int, ...], p: float, window: int | None
    ) -> Tensor:
        out_tnd = torch.empty(q_tnd.shape, dtype=q_tnd.dtype)
        kept = []
        for q, k, v, out in _heads(lengths, q_tnd * q_tnd.shape[-1] ** -0.5, k_tnd, v_tnd, out_tnd):
            scores_nll = torch.bmm(q, k.transpose(1, 2))
            if window is not None and scores_nll.shape[-1] > window + 1:
                scores_nll += _band(scores_nll, window)
            probability_nll = torch.softmax(scores_nll, -1)
            if p:
                _drop(probability_nll, p)
            out.copy_(torch.bmm(probability_nll.relu() if p else probability_nll, v))
            if any(ctx.needs_input_grad):
                kept.append(probability_nll)
        ctx.lengths, ctx.p = lengths, p
        if p:
            out_tnd *= 1 / (1 - p)
        ctx.save_for_backward(q_tnd, k_tnd, v_tnd, out_tnd, *kept)
        return out_tnd

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_tnd, k_tnd, v_tnd, out_tnd, *kept = ctx.saved_tensors
        p, scale = ctx.p, q_tnd.shape[-1] ** -0.5
        grad_tnd = grads[0] * (1 / (1 - p)) if p else grads[0]
        # the sum over keys of probability × its gradient, which softmax's backward pass takes off: Σ_d gradient × output
        mean_tn1 = (grads[0].float() * out_tnd.float()).sum(-1, keepdim=True).to(q_tnd.dtype)
        dq_tnd, dk_tnd, dv_tnd = (torch.empty(x.shape, dtype=x.dtype) for x in (q_tnd, k_tnd, v_tnd))
        parts = _heads(ctx.lengths, q_tnd, k_tnd, v_tnd, grad_tnd, mean_tn1, dq_tnd, dk_tnd, dv_tnd)
        for signed_nll, (q, k, v, grad, mean, dq, dk, dv) in zip(kept, parts, strict=True):
            dprobability_nll = torch.bmm(grad, v.transpose(1, 2))
            if p:
                dv.copy_(torch.bmm(signed_nll.relu().transpose(1, 2), grad))
                dprobability_nll = torch.ops.aten.threshold_backward(dprobability_nll, signed_nll, 0)
                probability_nll = signed_nll.abs()
            else:
                dv.copy_(torch.bmm(signed_nll.transpose(1, 2), grad))
                probability_nll = signed_nll
            dscores_nll = dprobability_nll.sub_(mean).mul_(probability_nll)
            dq.copy_(torch.bmm(dscores_nll, k))
            dk.copy_(torch.bmm(dscores_nll.transpose(1, 2), q))
        return dq_tnd.mul_(scale), dk_tnd.mul_(scale), dv_tnd, None, None, None


def _band(scores_nll: Tensor, window: int) -> Tensor:
    """0 where two positions see each other, minus infinity elsewhere: [l, l]."""
    position = torch.arange(scores_nll.shape[-1])
    far = (position[:, None] - position).abs() > window
    return torch.zeros(far.shape, dtype=scores_nll.dtype).masked_fill_(far, -torch.inf)
