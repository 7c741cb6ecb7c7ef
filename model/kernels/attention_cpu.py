"""Attention on a CPU, tile by tile: no padding, dropout that costs little, time as the products, memory as the length.

torch's fused attention computes in float32 whatever the inputs are, and falls back to an unfused form when there is dropout. A
processor with bf16 products does them four times as fast, so the plain three steps (product, softmax, product) win.

A tile is some queries with all the keys that they see: a whole sequence, or a part of it under a window or beyond `LONGEST_WHOLE` tokens.
Its probabilities [n, l, k] of l queries and k keys are kept for the backward pass. Only those of a long sequence that sees all of itself,
which grow with the square of its length, are computed again.

The dropout mask is in the probabilities' sign: one that dropout removed is negative. Then what remains is `relu`, the probability itself
is `abs`, and the gradient's mask is relu's own. Each tile draws its mask from a seed of its own, and so the same one again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from biomlm.model.kernels.dropout import SIGN16, bits, drop_signs
from biomlm.model.kernels.linear import DTYPES, matmul
from biomlm.model.packed import round_to_bucket

LONGEST_WHOLE = 1024  # tokens of a sequence that is done at once
QUERIES = 512  # at a time of a longer one
LOCAL_QUERIES = 256  # at a time under a window
ASKED_FOR = 1 << 16  # probabilities of a head from which on float32 products are oneDNN's
PROBABILITIES = 1 << 23  # at a time, or as many as one head has: beyond the processor's cache they cost more


class Tile(NamedTuple):
    """Where a tile lies in rows [n, t, d], and whether its probabilities are kept.

    The numbers of queries and keys are rounded up by `round_to_bucket`: behind the `real` ones lie the next sequence's, whose
    probabilities are 0. What comes out for such a row is overwritten by the tile it belongs to, since tiles are computed in the order
    of their rows.
    """

    number: int
    heads: slice
    queries: slice
    keys: slice
    real: tuple[int, int]
    kept: bool


@dataclass(frozen=True)
class Plan:
    """What is done tile after tile, the same in both passes.

    Args:
        heads: Attention heads.
        lengths: Tokens of each sequence.
        window: Tokens on each side that a token sees; None for all.
        p: Probability of dropping a probability.
        seed: Of the masks.
    """

    heads: int
    lengths: tuple[int, ...]
    window: int | None
    p: float
    seed: int

    @property
    def shares_keys(self) -> bool:
        """Whether several tiles see the same keys."""
        return self.window is not None or max(self.lengths) > LONGEST_WHOLE

    @cached_property
    def rows(self) -> int:
        """The number of rows that the last tile reaches to."""
        return max(int(rows.stop) for tile in self.tiles() for rows in (tile.queries, tile.keys))

    def tiles(self) -> Iterator[Tile]:
        """Give the tiles, sequence after sequence."""
        end = number = 0
        for length in self.lengths:
            begin, end = end, end + length
            kept, stride, reach = self._cut(length)
            together = max(1, PROBABILITIES // (min(stride, length) * min(stride + 2 * reach, length)))
            for head in range(0, self.heads, together):
                for first in range(begin, end, stride):
                    last = min(first + stride, end)
                    first_key = max(first - reach, begin)
                    real = last - first, min(last + reach, end) - first_key
                    queries, keys = (
                        slice(at, at + round_to_bucket(n)) for at, n in zip((first, first_key), real, strict=True)
                    )
                    yield Tile(number, slice(head, head + together), queries, keys, real, kept)
                    number += 1

    def _cut(self, length: int) -> tuple[bool, int, int]:
        """Whether a sequence's probabilities are kept, its queries at a time, and tokens that one sees on each side."""
        if self.window is not None:
            return True, LOCAL_QUERIES, self.window
        return (True, length, length) if length <= LONGEST_WHOLE else (False, QUERIES, length)

    def probabilities(self, tile: Tile, q_ntd: Tensor, k_ntd: Tensor) -> Tensor:
        """Compute softmax(q kᵀ) of a tile, negative where dropped: [n, l, k]."""
        scores_nlk = _bmm(q_ntd[tile.heads, tile.queries], k_ntd[tile.heads, tile.keys].transpose(1, 2))
        if self.window is not None and scores_nlk.shape[-1] > self.window + 1:
            before = tile.queries.start - tile.keys.start
            scores_nlk += _band(*scores_nlk.shape[1:], before, self.window, scores_nlk.dtype)
        queries, keys = tile.real
        scores_nlk[:, :, keys:] = -torch.inf
        probability_nlk = torch.softmax(scores_nlk, -1)
        probability_nlk[:, queries:] = 0
        if self.p:
            _drop(probability_nlk, self.p, torch.Generator().manual_seed(self.seed + tile.number))
        return probability_nlk


@lru_cache(maxsize=16)
def _band(queries: int, keys: int, before: int, window: int, dtype: torch.dtype) -> Tensor:
    """Make the additive mask [l, k]: 0 where a query attends to a key, minus infinity elsewhere.

    Args:
        queries: How many, l.
        keys: How many, k.
        before: Keys in front of the first query's own.
        window: Tokens on each side that a query sees.
        dtype: Of the scores.
    """
    own_l1 = torch.arange(before, before + queries)[:, None]
    far_lk = (own_l1 - torch.arange(keys)).abs() > window
    return torch.zeros(far_lk.shape, dtype=dtype).masked_fill_(far_lk, -torch.inf)


def _drop(probability_nlk: Tensor, p: float, generator: torch.Generator) -> None:
    """Turn the sign of dropped probabilities, in place."""
    signs = drop_signs(probability_nlk.shape, p, generator).bitwise_and_(SIGN16)
    if probability_nlk.element_size() == 4:
        signs = signs.to(torch.int32).bitwise_left_shift_(16)
    bits(probability_nlk).bitwise_or_(signs)


def _left(signed_nlk: Tensor) -> Tensor:
    """Return what dropout left: relu, three times as fast on the bits, whose sign is the number's."""
    return bits(signed_nlk).clamp_min(0).view(signed_nlk.dtype)


def _by_name(dtype: torch.dtype, probabilities: int) -> bool:
    """Whether oneDNN has to be asked, head by head: 12 products of 512 × 512 by 64 numbers take it 1.2 ms, torch by MKL 2.4."""
    return dtype == torch.float32 and dtype in DTYPES and probabilities >= ASKED_FOR


def _bmm(a_nij: Tensor, b_njk: Tensor, out_nik: Tensor | None = None) -> Tensor:
    """Multiply a b for every head."""
    n, i, j, k = *a_nij.shape, b_njk.shape[-1]
    if not _by_name(a_nij.dtype, i * max(j, k)):
        return torch.bmm(a_nij, b_njk, out=out_nik)
    out_nik = a_nij.new_empty(n, i, k) if out_nik is None else out_nik
    for a_ij, b_jk, out_ik in zip(a_nij, b_njk, out_nik, strict=True):
        out_ik.copy_(matmul(a_ij, b_jk))
    return out_nik


def _transposed_bmm(a_nji: Tensor, b_njk: Tensor, out_nik: Tensor) -> Tensor:
    """Multiply aᵀ b for every head; as (bᵀ a)ᵀ there is less to transpose."""
    if not _by_name(a_nji.dtype, a_nji[0].numel()):
        return torch.bmm(a_nji.transpose(1, 2), b_njk, out=out_nik)
    for a_ji, b_jk, out_ik in zip(a_nji, b_njk, out_nik, strict=True):
        out_ik.copy_(matmul(b_jk.t(), a_ji).t())
    return out_nik


def _add_transposed_bmm(a_nji: Tensor, b_njk: Tensor, sum_nik: Tensor) -> Tensor:
    """Add aᵀ b of every head to a sum."""
    return sum_nik.add_(_transposed_bmm(a_nji, b_njk, torch.empty_like(sum_nik, dtype=a_nji.dtype)))


def packed_attention(
    q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, lengths: tuple[int, ...], dropout: float, window: int | None
) -> Tensor:
    """Compute softmax(q kᵀ / √d) v within each sequence: [t, n, d].

    Args:
        q_tnd: Queries; keys and values have the same shape.
        lengths: Tokens of each sequence.
        dropout: Probability of dropping a probability; held to 2^-16.
        window: Tokens on each side that a token sees; None for all.
    """
    seed = int(torch.randint(1 << 62, ())) if dropout else 0
    plan = Plan(q_tnd.shape[1], lengths, window, dropout, seed)
    with torch.autocast("cpu", enabled=False):  # the precision has been chosen: that of the inputs
        return _PackedAttention.apply(q_tnd, k_tnd, v_tnd, plan)  # type: ignore[no-any-return, no-untyped-call]


class _PackedAttention(torch.autograd.Function):
    """`packed_attention` with its gradient; rows lie head by head inside, or products would copy them for every tile."""

    @staticmethod
    def forward(ctx: Any, q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, plan: Plan) -> Tensor:
        scale = q_tnd.shape[-1] ** -0.5
        q_ntd, k_ntd, v_ntd = (_by_head(x, plan.rows) for x in (q_tnd * scale, k_tnd, v_tnd))
        out_ntd, kept = torch.empty_like(q_ntd), []
        for tile in plan.tiles():
            signed_nlk = plan.probabilities(tile, q_ntd, k_ntd)
            left_nlk = _left(signed_nlk) if plan.p else signed_nlk
            _bmm(left_nlk, v_ntd[tile.heads, tile.keys], out_ntd[tile.heads, tile.queries])
            if tile.kept and any(ctx.needs_input_grad):
                kept.append(signed_nlk)
        if plan.p:
            out_ntd *= 1 / (1 - plan.p)
        ctx.plan, ctx.scale = plan, scale
        ctx.save_for_backward(q_ntd, k_ntd, v_ntd, *kept)
        return out_ntd.transpose(0, 1)[: len(q_tnd)]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_ntd, k_ntd, v_ntd, *saved = ctx.saved_tensors
        plan, kept = ctx.plan, iter(saved)
        grad_ntd = _by_head(grads[0] * (1 / (1 - plan.p)) if plan.p else grads[0], plan.rows)
        dq_ntd, dk_ntd, dv_ntd = (torch.empty_like(x) for x in (q_ntd, k_ntd, v_ntd))
        put: Callable[[Tensor, Tensor, Tensor], Tensor] = _transposed_bmm
        if plan.shares_keys:  # summed over many tiles: in float32
            dk_ntd, dv_ntd, put = torch.zeros(k_ntd.shape), torch.zeros(v_ntd.shape), _add_transposed_bmm
        for tile in plan.tiles():
            q_nld, grad_nld = q_ntd[tile.heads, tile.queries], grad_ntd[tile.heads, tile.queries]
            k_nkd, v_nkd = k_ntd[tile.heads, tile.keys], v_ntd[tile.heads, tile.keys]
            signed_nlk = next(kept) if tile.kept else plan.probabilities(tile, q_ntd, k_ntd)
            dprobability_nlk = _bmm(grad_nld, v_nkd.transpose(1, 2))
            probability_nlk, left_nlk = signed_nlk, signed_nlk
            if plan.p:
                probability_nlk, left_nlk = signed_nlk.abs(), _left(signed_nlk)
                dprobability_nlk = torch.ops.aten.threshold_backward(dprobability_nlk, signed_nlk, 0)
            put(left_nlk, grad_nld, dv_ntd[tile.heads, tile.keys])
            dscores_nlk = torch._softmax_backward_data(dprobability_nlk, probability_nlk, -1, q_ntd.dtype)
            _bmm(dscores_nlk, k_nkd, dq_ntd[tile.heads, tile.queries])
            put(dscores_nlk, q_nld, dk_ntd[tile.heads, tile.keys])
        tokens, dtype = len(grads[0]), q_ntd.dtype
        return (*(x.to(dtype).transpose(0, 1)[:tokens] for x in (dq_ntd.mul_(ctx.scale), dk_ntd, dv_ntd)), None)


def _by_head(x_tnd: Tensor, rows: int) -> Tensor:
    """Copy [t, n, d] into a contiguous [n, rows, d], zeros at the end."""
    tokens, heads, size = x_tnd.shape
    x_ntd = x_tnd.new_empty(heads, rows, size)
    x_ntd[:, :tokens] = x_tnd.transpose(0, 1)
    x_ntd[:, tokens:] = 0
    return x_ntd
