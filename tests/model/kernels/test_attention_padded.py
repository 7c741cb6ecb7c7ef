"""Attention in groups of like length and in chunks: a plain softmax over all tokens says what is right, a recount what it costs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from biomlm.model.kernels import attention_padded as module
from biomlm.model.kernels.attention_padded import groups, padded_attention
from biomlm.model.packed import Packed

HEADS, SIZE = 2, 4


def packed_of(lengths: list[int]) -> Packed:
    return Packed(torch.zeros(sum(lengths), dtype=torch.int64), tuple(lengths))


def plain(q: Tensor, k: Tensor, v: Tensor, packed: Packed, window: int | None) -> Tensor:
    """Sequence by sequence, with all else masked."""
    parts = []
    for q_l, k_l, v_l in zip(*(torch.split(x, list(packed.lengths)) for x in (q, k, v)), strict=True):
        place = torch.arange(len(q_l))
        far = (place[:, None] - place).abs() > (len(q_l) if window is None else window)
        scores = torch.einsum("qnd,knd->nqk", q_l, k_l) / q.shape[-1] ** 0.5
        parts.append(torch.einsum("nqk,knd->qnd", scores.masked_fill(far, -torch.inf).softmax(-1), v_l))
    return torch.cat(parts)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=80))
def test_groups_hold_every_sequence_and_little_else(lengths: list[int]) -> None:
    falling = sorted(lengths, reverse=True)
    blocks, start = groups(falling), 0
    for block in blocks:
        inside = falling[start : start + block.sequences]
        start += block.sequences
        assert inside[0] <= block.length < inside[0] + module.ALIGNED
        padding = sum(module._cost(block.length) - module._cost(length) for length in inside[1:])
        assert padding <= module.CALL
    assert start == len(falling)


def test_natural_lengths_are_computed_with_a_sixth_more_products() -> None:
    """Padded to the longest of all they are 2.6 times the products and 1.8 times the places."""
    lengths = np.sort(np.random.default_rng(0).integers(50, 513, 60))[::-1]
    blocks = groups(lengths.tolist())
    products = sum(block.sequences * block.length**2 for block in blocks) / (lengths**2).sum()
    assert products < 1.2
    assert sum(block.sequences * block.length for block in blocks) / lengths.sum() < 1.15
    assert len(blocks) <= 8


@pytest.mark.parametrize("window", [None, 3, 64, 100])
def test_groups_and_chunks_agree_with_a_plain_softmax(window: int | None) -> None:
    """Some lengths end on a chunk's or a group's end, others do not."""
    torch.manual_seed(0)
    packed = packed_of([128, 1, 300, 64, 63, 2, 65, 700, 8, 16])
    q, k, v = (torch.randn(len(packed.input_ids_t), HEADS, SIZE, requires_grad=True) for _ in range(3))
    weight = torch.randn(len(packed.input_ids_t), HEADS, SIZE)
    expected, mine = plain(q, k, v, packed, window), padded_attention((q, k, v), packed, 0.0, window)
    torch.testing.assert_close(mine, expected, atol=2e-6, rtol=1e-5)
    grads = [torch.autograd.grad((out * weight).sum(), (q, k, v)) for out in (mine, expected)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-4)


@settings(max_examples=20)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12), window=st.none() | st.integers(0, 20))
def test_whatever_the_lengths(lengths: list[int], window: int | None) -> None:
    torch.manual_seed(len(lengths))
    packed = packed_of(lengths)
    q, k, v = torch.randn(3, sum(lengths), HEADS, SIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CALL", 500)  # several groups
        mine = padded_attention((q, k, v), packed, 0.0, window)
    torch.testing.assert_close(mine, plain(q, k, v, packed, window), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 64])
def test_dropout_keeps_the_mean_and_every_head_has_masks_of_its_own(window: int | None) -> None:
    torch.manual_seed(0)
    packed, p = packed_of([200, 150, 40]), 0.1
    zeros, ones = torch.zeros(390, 4, 8), torch.ones(390, 4, 8)
    out = padded_attention((zeros, zeros, ones), packed, p, window)[..., 0]
    assert out.mean() == pytest.approx(1, abs=0.01)
    assert torch.corrcoef(out.t()).triu(1).abs().max() < 0.3


def test_a_layout_made_for_an_evaluation_serves_training() -> None:
    packed, leaf = packed_of([70, 30]), torch.randn(100, HEADS, SIZE, requires_grad=True)
    with torch.inference_mode():
        expected = padded_attention((leaf, leaf, leaf), packed, 0.0, 16)
    out = padded_attention((leaf, leaf, leaf), packed, 0.0, 16)
    assert torch.equal(out, expected)
    assert torch.autograd.grad(out.sum(), leaf)[0].isfinite().all()


def test_a_window_costs_as_the_length_not_its_square() -> None:
    """Scores of a note of 8,192 tokens: three chunks of 64 keys a query, where a padded row has 8,192."""
    layout = module._layout(packed_of([8192]), 64, torch.float16)
    assert [tuple(bias.shape) for bias in layout.biases if bias is not None] == [(128, 1, 64, 192)]
