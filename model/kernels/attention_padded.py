"""Attention for a GPU without a kernel for packed sequences, in few calls of torch's fused attention with little padding.

Sequences are put into groups of like length, each padded to its longest: abstracts of 50 to 512 tokens padded to the longest of all take
1.8 times their places and 2.7 times their products. Under a window every sequence is cut into chunks at least as long as the window,
and a chunk's queries see the keys of their own chunk and of its neighbours, so that time and masks grow with the length, not its square.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from biomlm.model.packed import Packed

ALIGNED = 8  # a mask's rows are as long as a multiple, or torch copies it in every call
CHUNK = 64  # queries of a chunk at least: those of a thread block of torch's kernel
COPIED = 256  # scores that take as long as copying one place of queries, keys, values, output and their gradients
CALL = 1 << 18  # scores of a head that take as long as asking for one call more: a sequence of 512

Rows = tuple[Tensor, Tensor, Tensor]  # queries, keys, values, each [t, n, d]


@dataclass(frozen=True)
class Block:
    """Sequences, or chunks, that are computed in one call.

    Args:
        sequences: How many, b.
        length: Places of each, l.
    """

    sequences: int
    length: int


@dataclass(frozen=True)
class Layout:
    """Where packed tokens lie in the rows of the blocks, which lie end to end.

    Args:
        blocks: In their order.
        places_t: Each token's row, int64.
        biases: What is added to each block's scores: 0, or minus infinity where a query does not see a key; None where all see all.
    """

    blocks: tuple[Block, ...]
    places_t: Tensor
    biases: tuple[Tensor | None, ...]


def padded_attention(rows: Rows, packed: Packed, dropout: float, window: int | None) -> Tensor:
    """Compute attention within each sequence, [t, n, d].

    Args:
        rows: Queries, keys and values.
        packed: Where sequences begin.
        dropout: Probability of dropping an attention weight.
        window: Tokens on each side that a token sees; None for all of its sequence.
    """
    q_tnd = rows[0]
    layout = _layout(packed, window, q_tnd.dtype)
    size = sum(block.sequences * block.length for block in layout.blocks)
    padded = [_Pad.apply(x, layout.places_t, size) for x in rows]  # type: ignore[no-untyped-call]
    parts, start = [], 0
    for block, bias in zip(layout.blocks, layout.biases, strict=True):
        end = start + block.sequences * block.length
        q, k, v = (x[start:end].unflatten(0, (block.sequences, block.length)) for x in padded)
        if window is not None:
            k, v = _with_neighbours(k), _with_neighbours(v)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        parts.append(out.transpose(1, 2).flatten(0, 1))
        start = end
    return _Unpad.apply(torch.cat(parts), layout.places_t)  # type: ignore[no-any-return, no-untyped-call]


def groups(lengths: Sequence[int]) -> list[Block]:
    """Cut falling lengths into groups; one ends when its padding costs as much as one call more."""
    blocks: list[Block] = []
    wasted = 0
    for length in lengths:
        padding = _cost(blocks[-1].length) - _cost(length) if blocks else 0
        if blocks and wasted + padding <= CALL:
            blocks[-1] = replace(blocks[-1], sequences=blocks[-1].sequences + 1)
            wasted += padding
        else:
            blocks.append(Block(1, _aligned(length)))
            wasted = 0
    return blocks


def _cost(length: int) -> int:
    return length * (length + COPIED)


def _aligned(length: int) -> int:
    return -(-length // ALIGNED) * ALIGNED


def _layout(packed: Packed, window: int | None, dtype: torch.dtype) -> Layout:
    """Lay sequences out, once for each micro-batch and window, for all layers."""
    key = window, dtype
    if key not in packed.layouts:
        packed.layouts[key] = _lay_out(packed.lengths, window, packed.input_ids_t.device, dtype)
    layout: Layout = packed.layouts[key]
    return layout


@torch.inference_mode(False)  # it outlives the pass that asked first, and a later one may be for training
def _lay_out(lengths: tuple[int, ...], window: int | None, device: torch.device, dtype: torch.dtype) -> Layout:
    """Make a layout; only a few numbers of each sequence are copied to the device, small enough for its command queue."""
    lengths_b = np.array(lengths)
    if window is None:
        order = np.argsort(-lengths_b, kind="stable")
        blocks = groups(lengths_b[order].tolist())
        own_rows = np.repeat([block.length for block in blocks], [block.sequences for block in blocks])
    else:
        chunk = max(CHUNK, _aligned(window))
        order = np.arange(len(lengths_b))
        own_rows = -(-lengths_b // chunk) * chunk
        blocks = [Block(int(own_rows.sum()) // chunk, chunk)]
    first_b = np.empty_like(lengths_b)
    first_b[order] = np.cumsum(own_rows) - own_rows
    facts = np.stack([first_b - (np.cumsum(lengths_b) - lengths_b), lengths_b, lengths_b[order]]).astype(np.int32)
    shift_b, counts_b, ordered_b = torch.from_numpy(facts).to(device, non_blocking=True).long()
    tokens = sum(lengths)
    shift_t = torch.repeat_interleave(shift_b, counts_b, output_size=tokens)
    places_t = torch.arange(tokens, device=device) + shift_t
    if window is not None:
        sequence_t = torch.repeat_interleave(torch.arange(len(lengths), device=device), counts_b, output_size=tokens)
        return Layout(tuple(blocks), places_t, (_band(blocks[0], places_t, sequence_t, window, dtype),))
    biases, start = [], 0
    for block in blocks:
        own = slice(start, start + block.sequences)
        whole = all(lengths_b[order][own] == block.length)
        biases.append(None if whole else _padding(block, ordered_b[own], dtype))
        start = own.stop
    return Layout(tuple(blocks), places_t, tuple(biases))


def _padding(block: Block, counts_b: Tensor, dtype: torch.dtype) -> Tensor:
    """Hide the places behind each sequence's end: [b, 1, 1, l]."""
    real_bl = torch.arange(block.length, device=counts_b.device) < counts_b[:, None]
    return _bias(real_bl, dtype)[:, None, None]


def _band(block: Block, places_t: Tensor, sequence_t: Tensor, window: int, dtype: torch.dtype) -> Tensor:
    """Hide what is another sequence's, padding or too far away: [chunks, 1, l, 3 l]."""
    chunks, length = block.sequences, block.length
    sequence_cl = sequence_t.new_full((chunks * length,), -1).index_copy(0, places_t, sequence_t).view(chunks, length)
    owner_ck = _with_neighbours(sequence_cl, -2)
    near_lk = _distance(length, places_t.device) <= window
    seen_clk = (sequence_cl[:, :, None] == owner_ck[:, None]) & near_lk  # padding sees padding: no row is empty
    return _bias(seen_clk, dtype)[:, None]


def _distance(length: int, device: torch.device) -> Tensor:
    """Places between a query of a chunk and a key of the chunk or its neighbours, [l, 3 l]."""
    query_l, key_k = torch.arange(length, device=device), torch.arange(-length, 2 * length, device=device)
    return (query_l[:, None] - key_k).abs()


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


def _with_neighbours(x_cl: Tensor, beyond: int = 0) -> Tensor:
    """Join each chunk with the one before and the one behind: [c, l, …] → [c, 3 l, …]."""
    end = x_cl.new_full((1, *x_cl.shape[1:]), beyond)
    return torch.cat([torch.cat([end, x_cl[:-1]]), x_cl, torch.cat([x_cl[1:], end])], dim=1)


class _Pad(torch.autograd.Function):
    """Move rows to their places among zeros; both ways by copying, where autograd's own would add atomically."""

    @staticmethod
    def forward(ctx: Any, x_tnd: Tensor, places_t: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(places_t)
        return x_tnd.new_zeros(size, *x_tnd.shape[1:]).index_copy_(0, places_t, x_tnd)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class _Unpad(torch.autograd.Function):
    """The way back."""

    @staticmethod
    def forward(ctx: Any, x_pnd: Tensor, places_t: Tensor) -> Tensor:
        ctx.save_for_backward(places_t)
        ctx.size = len(x_pnd)
        return x_pnd.index_select(0, places_t)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad_tnd, (places_t,) = grads[0], ctx.saved_tensors
        return grad_tnd.new_zeros(ctx.size, *grad_tnd.shape[1:]).index_copy_(0, places_t, grad_tnd), None
