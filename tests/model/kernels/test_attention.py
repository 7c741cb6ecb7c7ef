"""Every attention kernel that this machine has means the same: a plain softmax within each sequence and its window."""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from biomlm.core.errors import ConfigError
from biomlm.model.kernels import attention as module
from biomlm.model.kernels import attention_cpu
from biomlm.model.kernels.attention import attention, check, pick
from biomlm.model.kernels.dropout import COLUMNS, PARTS, drop_signs, dropout
from biomlm.model.packed import Packed

CPU = torch.device("cpu")
ON_CPU: list[module.Kernel] = ["auto", "blocks", "loop", "padded", "flex"]


def plain(q: Tensor, k: Tensor, v: Tensor, packed: Packed, window: int | None) -> Tensor:
    """Over all tokens, with everything else masked."""
    place = packed.position_ids_t
    sequence = (place == 0).cumsum(0)
    seen = (sequence[:, None] == sequence) & ((place[:, None] - place).abs() <= (99 if window is None else window))
    scores = torch.einsum("tnd,snd->nts", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("nts,snd->tnd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


def packed_of(lengths: list[int]) -> Packed:
    return Packed(torch.zeros(sum(lengths), dtype=torch.int64), tuple(lengths))


@pytest.mark.parametrize("kernel", ON_CPU)
@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), window=st.none() | st.integers(0, 6))
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_kernels_agree_with_a_plain_softmax(kernel: module.Kernel, lengths: list[int], window: int | None) -> None:
    torch.manual_seed(sum(lengths))
    q, k, v = torch.randn(3, sum(lengths), 2, 4)
    packed = packed_of(lengths)
    expected = plain(q, k, v, packed, window)
    torch.testing.assert_close(attention(q, k, v, packed, 0.0, window, kernel), expected, atol=1e-6, rtol=1e-5)


@contextmanager
def small_tiles(queries: int, whole: int = 4, probabilities: int = 64) -> Iterator[None]:
    """Tiles of so many queries for sequences of more than `whole` tokens, and of few heads."""
    sizes = {"QUERIES": queries, "LOCAL_QUERIES": queries, "LONGEST_WHOLE": whole, "PROBABILITIES": probabilities}
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(attention_cpu, name, size)
        yield


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 25), min_size=1, max_size=4),
    window=st.none() | st.integers(0, 9),
    queries=st.integers(1, 9),
    probabilities=st.integers(1, 400),
)
def test_tiles_agree_with_a_plain_softmax(
    lengths: list[int], window: int | None, queries: int, probabilities: int
) -> None:
    """Outputs and gradients, however a sequence is cut and whether or not its probabilities are kept."""
    torch.manual_seed(sum(lengths))
    packed = packed_of(lengths)
    weight, *leaves = (torch.randn(sum(lengths), 3, 4, requires_grad=True) for _ in range(4))
    with small_tiles(queries, probabilities=probabilities):
        mine = attention(*leaves, packed, 0.0, window, "blocks")
        mine_grads = torch.autograd.grad((mine * weight).sum(), leaves)
    expected = plain(*leaves, packed, window)
    expected_grads = torch.autograd.grad((expected * weight).sum(), leaves)
    for a, b in zip((mine, *mine_grads), (expected, *expected_grads), strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("length", [1024, 1025, 1537])
def test_sequences_around_the_longest_that_is_done_at_once(length: int, dtype: torch.dtype, tolerance: float) -> None:
    """Beside torch's fused attention in float64, relative to the largest number."""
    torch.manual_seed(0)
    packed = packed_of([length, 3])
    leaves = [torch.randn(length + 3, 2, 16).to(dtype).requires_grad_() for _ in range(3)]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    weight = torch.randn(length + 3, 2, 16).to(dtype)
    mine, expected = attention(*leaves, packed, 0.0, None, "blocks"), attention(*exact, packed, 0.0, None, "loop")
    mine_grads = torch.autograd.grad(mine, leaves, weight)
    expected_grads = torch.autograd.grad(expected, exact, weight.double())
    for a, b in zip((mine, *mine_grads), (expected, *expected_grads), strict=True):
        assert float((a - b).detach().abs().max() / b.detach().abs().max()) < tolerance


def test_a_long_sequence_keeps_no_probabilities() -> None:
    """What the backward pass holds grows with the length, not with its square."""

    def kept(length: int) -> int:
        q, k, v = torch.randn(3, length, 2, 4, requires_grad=True)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            attention(q, k, v, packed_of([length]), 0.1, kernel="blocks")
        return sum(sizes)

    with small_tiles(8):
        assert kept(120) - kept(80) == kept(80) - kept(40) > 0


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("asked_for", [1, 1 << 16])
def test_products_of_float32_by_onednn(asked_for: int, dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Head by head through oneDNN, or by torch's product of batches: the same numbers, with the same masks."""
    torch.manual_seed(0)
    leaves, packed = [torch.randn(321, 2, 8, requires_grad=True) for _ in range(3)], packed_of([19, 270, 32])
    weight = torch.randn(321, 2, 8)
    found = []
    for way in (asked_for, 1 << 40):
        monkeypatch.setattr(attention_cpu, "ASKED_FOR", way)
        torch.manual_seed(1)
        out = attention(*leaves, packed, dropout, kernel="blocks")
        found.append((out, *torch.autograd.grad((out * weight).sum(), leaves)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


def test_what_follows_a_sequence_leaves_no_trace() -> None:
    """Tiles reach into the next sequence: whatever is there, a sequence's output and gradient are the same to the bit."""
    torch.manual_seed(0)
    first, others = torch.randn(3, 21, 2, 4), torch.randn(2, 3, 40, 2, 4) * 1000
    found = []
    for other in others:
        leaves = [torch.cat([a, b]).requires_grad_() for a, b in zip(first, other, strict=True)]
        out = attention(*leaves, packed_of([21, 40]), 0.0, kernel="blocks")
        found.append([x[:21] for x in (out, *torch.autograd.grad(out[:21].square().sum(), leaves))])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_a_local_layer_that_was_evaluated_can_be_trained() -> None:
    packed, leaf = packed_of([300]), torch.randn(300, 2, 4, requires_grad=True)
    with torch.inference_mode():
        expected = attention(leaf, leaf, leaf, packed, 0.0, 64)
    out = attention(leaf, leaf, leaf, packed, 0.0, 64)
    assert torch.equal(out, expected)
    assert torch.autograd.grad(out.sum(), leaf)[0].isfinite().all()


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("kernel", ["blocks", "loop", "padded"])
def test_gradients_agree_with_a_plain_softmax(kernel: module.Kernel, window: int | None) -> None:
    torch.manual_seed(0)
    packed, weight = packed_of([5, 1, 7]), torch.randn(13, 2, 4)
    leaves = [torch.randn(13, 2, 4, requires_grad=True) for _ in range(3)]
    expected = torch.autograd.grad((plain(*leaves, packed, window) * weight).sum(), leaves)
    mine = torch.autograd.grad((attention(*leaves, packed, 0.0, window, kernel) * weight).sum(), leaves)
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("whole", [1024, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_of_blocks_removes_its_share_and_keeps_the_mean(dtype: torch.dtype, whole: int) -> None:
    """With equal scores and values of one, an output is the share of probabilities kept, over 1 - p."""
    torch.manual_seed(0)
    length, p = 256, 0.1
    zeros, ones = torch.zeros(length, 4, 8, dtype=dtype), torch.ones(length, 4, 8, dtype=dtype)
    with small_tiles(64, whole, 1 << 15):
        out = attention(zeros, zeros, ones, packed_of([length]), p, kernel="blocks").float()
    assert out.mean() == pytest.approx(1, abs=0.004)
    assert out[:, :, 0].std() == pytest.approx((p / (1 - p) / length) ** 0.5, rel=0.15)
    shares = out[:, :, 0].view(4, 64, 4).transpose(1, 2).reshape(16, 64)  # of the tiles' queries
    assert torch.corrcoef(shares).triu(1).abs().max() < 0.6, "each tile has a mask of its own"


@pytest.mark.parametrize("whole", [1024, 2])
def test_dropout_of_blocks_has_the_gradient_of_its_own_mask(whole: int) -> None:
    """By finite differences, the mask held by the seed."""
    packed = packed_of([4, 3])

    def out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch.manual_seed(3)
        return attention(q, k, v, packed, 0.4, kernel="blocks")

    torch.manual_seed(1)
    leaves = [torch.randn(7, 2, 4, requires_grad=True) for _ in range(3)]
    weight, step = torch.randn(7, 2, 4), 1e-2
    with small_tiles(2, whole):
        grads = torch.autograd.grad((out(*leaves) * weight).sum(), leaves)
        for which, at in itertools.product(range(3), [(0, 0, 1), (3, 1, 2), (6, 0, 3)]):
            moved = [[x.detach().clone() for x in leaves] for _ in range(2)]
            moved[0][which][at] += step
            moved[1][which][at] -= step
            high, low = ((out(*rows) * weight).sum() for rows in moved)
            assert float(grads[which][at]) == pytest.approx(float(high - low) / (2 * step), abs=2e-3)


def dropout_disagrees(kernel: module.Kernel, window: int | None, leaves: list[Tensor], packed: Packed) -> float:
    """How far the gradient by the values is from that of the weights that were kept; outputs are linear in the values.

    A backward pass with a mask of its own is off by a few percent of the sum.
    """
    weight, (*_, v) = torch.randn_like(leaves[2]), leaves
    total = (attention(*leaves, packed, 0.3, window, kernel) * weight).float().sum()  # type: ignore[misc]
    dv = torch.autograd.grad(total, v)[0]
    return float(((dv.float() * v).sum() - total).detach().abs() / (v * weight).detach().float().norm())


@pytest.mark.parametrize("window", [None, 2, 64])
@pytest.mark.parametrize("kernel", ["blocks", "padded"])
def test_dropouts_mask_is_the_same_in_both_passes(kernel: module.Kernel, window: int | None) -> None:
    torch.manual_seed(0)
    packed = packed_of([5, 1, 7, 200, 64, 33])
    leaves = [torch.randn(310, 2, 8, requires_grad=True) for _ in range(3)]
    assert dropout_disagrees(kernel, window, leaves, packed) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_zeroes_its_share_scales_the_rest_and_masks_the_gradient(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.full((1000, 64), 2.0, dtype=dtype, requires_grad=True)
    y = dropout(x, 0.1)
    kept = y != 0
    assert float(kept.float().mean()) == pytest.approx(0.9, abs=0.005)
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 2 / 0.9))
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(kept, 1 / 0.9, 0.0).to(dtype))
    torch.manual_seed(0)
    assert torch.equal(dropout(x, 0.1), y), "a seed fixes the mask"


def test_masks_of_dropout_are_independent() -> None:
    """Neighbours, columns and diagonals of the table that they are made from, and as many common places of two rows as by chance."""
    torch.manual_seed(0)
    p, rows, width = 0.3, 300, PARTS * COLUMNS
    dropped_rw = (drop_signs(torch.Size([rows, width]), p) < 0).float()
    upper, lower = dropped_rw[:-1], dropped_rw[1:]
    pairs = [(upper[:, :-1], upper[:, 1:]), (upper, lower), (upper[:, PARTS:], lower[:, :-PARTS])]
    for a, b in pairs:
        assert float((a * b).mean()) == pytest.approx(p**2, rel=0.04)
        assert float((a * b * upper.roll(7, 1)[:, : a.shape[1]]).mean()) == pytest.approx(p**3, rel=0.08)
    common = (dropped_rw @ dropped_rw.t() / width)[tuple(torch.triu_indices(rows, rows, 1))]
    assert float(common.std()) == pytest.approx(math.sqrt(p**2 * (1 - p**2) / width), rel=0.1)


def test_auto_takes_blocks_for_half_precision_dropout_or_a_window() -> None:
    assert pick(CPU, torch.bfloat16, 0.0) == "blocks"
    assert pick(CPU, torch.float32, 0.1) == "blocks"
    assert pick(CPU, torch.float32, 0.0) == "loop"
    assert pick(CPU, torch.float32, 0.0, window=64) == "blocks"


@pytest.mark.parametrize(
    ("capability", "flash", "rate", "expected"),
    [
        ((9, 0), True, 0.1, "flash"),
        ((9, 0), False, 0.0, "varlen"),
        ((9, 0), False, 0.1, "varlen"),
        ((7, 0), True, 0.0, "efficient"),
        ((7, 0), True, 0.1, "padded"),
        ((7, 5), False, 0.0, "efficient"),
    ],
)
def test_the_choice_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], flash: bool, rate: float, expected: str
) -> None:
    monkeypatch.setattr(module, "_capability", lambda device: capability)
    monkeypatch.setattr(module, "flash_attn_varlen_func", (lambda: None) if flash else None)
    assert pick(torch.device("cuda"), torch.float16, rate) == expected


def test_float32_on_a_new_gpu_and_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_capability", lambda device: (9, 0))
    gpu = torch.device("cuda")
    assert pick(gpu, torch.float32, 0.0) == "efficient"
    assert pick(gpu, torch.float32, 0.0, window=64) == "padded"
    assert pick(gpu, torch.float16, 0.1, window=64) in ("flash", "varlen")


@pytest.mark.parametrize("kernel", ["flash", "varlen"])
def test_a_kernel_that_cannot_run_here_is_refused(kernel: module.Kernel) -> None:
    with pytest.raises(ConfigError, match=f"{kernel} needs a GPU"):
        check(kernel, CPU, torch.bfloat16, 0.0)


def test_the_efficient_kernel_is_refused_where_it_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_capability", lambda device: (7, 0))
    with pytest.raises(ConfigError, match="efficient runs on a GPU only"):
        check("efficient", CPU, torch.float16, 0.0)
    with pytest.raises(ConfigError, match="efficient has no dropout"):
        check("efficient", torch.device("cuda"), torch.float16, 0.1)


EFFICIENT = torch.ops.aten._efficient_attention_forward.default._schema


def efficient_by_schema(*given: Any, **more: Any) -> tuple[Tensor, ...]:
    """Stand in for torch's operation: bound by its registered schema, held to what its source checks, computed plainly."""
    names = [argument.name for argument in EFFICIENT.arguments]
    told = {a.name: a.default_value for a in EFFICIENT.arguments if a.has_default_value()}
    told |= {**dict(zip(names, given, strict=False)), **more}
    assert told.keys() == set(names), "an argument is missing or unknown"
    q, k, v, starts = (told[name] for name in ("query", "key", "value", "cu_seqlens_q"))
    t = q.shape[1]
    for x in (q, k, v):
        assert x.shape == (1, t, *q.shape[2:])
        assert x.stride(-1) == 1
        assert x.stride(2) % 8 == 0, "the aligned kernel"
        assert x.stride(1) % 8 == 0
        assert x.storage_offset() % 8 == 0
    assert starts.dtype == torch.int32
    assert starts.is_contiguous()
    assert told["cu_seqlens_k"] is starts
    assert told["bias"] is None
    assert (told["dropout_p"], told["custom_mask_type"], told["window_size"], told["scale"]) == (0.0, 0, None, None)
    assert told["max_seqlen_q"] == told["max_seqlen_k"] == int(starts.diff().max()) <= t
    assert told["compute_log_sumexp"] == (torch.is_grad_enabled() and q.requires_grad)
    packed = packed_of(starts.diff().tolist())
    out = plain(q[0], k[0], v[0], packed, None)[None]
    return out, out, out, out, *(told[name] for name in ("max_seqlen_q", "max_seqlen_k"))


def test_the_efficient_operation_is_asked_for_what_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the encoder lays queries, keys and values out, side by side."""
    monkeypatch.setattr(torch.ops.aten, "_efficient_attention_forward", efficient_by_schema, raising=False)
    torch.manual_seed(0)
    packed, qkv = packed_of([5, 1, 7]), torch.randn(13, 3, 2, 8, requires_grad=True)
    expected = plain(*qkv.unbind(1), packed, None)
    mine = attention(*qkv.unbind(1), packed, 0.0, None, "efficient")
    torch.testing.assert_close(mine, expected)
    for a, b in zip(*(torch.autograd.grad(x.square().sum(), qkv) for x in (mine, expected)), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(attention(*qkv.unbind(1), packed, 0.0, None, "efficient"), expected)
    windowed = attention(*qkv.unbind(1), packed, 0.0, 2, "efficient")
    torch.testing.assert_close(windowed, plain(*qkv.unbind(1), packed, 2))


def test_flex_has_no_dropout() -> None:
    with pytest.raises(ConfigError, match="no dropout"):
        check("flex", CPU, torch.float32, 0.1)
    check("blocks", CPU, torch.float32, 0.1)


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("kernel", ["padded", "varlen", "efficient"])
def test_no_kernel_of_a_gpu_has_the_host_wait(kernel: module.Kernel, window: int | None) -> None:
    """On the meta device, where there are no numbers to be read, forward and backward."""
    packed = packed_of([5, 1, 7]).to(torch.device("meta"))
    leaves = [torch.randn(13, 2, 8, dtype=torch.bfloat16, device="meta", requires_grad=True) for _ in range(3)]
    out = attention(*leaves, packed, 0.0 if kernel == "efficient" else 0.1, window, kernel)
    assert out.shape == (13, 2, 8)
    out.sum().backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert (leaf.grad.shape, leaf.grad.dtype) == (leaf.shape, leaf.dtype)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kernel", ["auto", "padded", "varlen", "efficient"])
def test_kernels_of_a_gpu_agree_with_a_plain_softmax(
    kernel: module.Kernel, dtype: torch.dtype, window: int | None
) -> None:
    """Laid out as the encoder does it; sequences begin and end everywhere within a kernel's blocks."""
    gpu = torch.device("cuda")
    try:
        check(kernel, gpu, dtype, 0.0)
    except ConfigError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    packed = packed_of([5, 1, 7, 200, 64, 33, 512]).to(gpu)
    qkv = torch.randn(822, 3, 2, 64, dtype=dtype, device=gpu, requires_grad=True)
    expected = plain(*qkv.float().unbind(1), packed, window)
    mine = attention(*qkv.unbind(1), packed, 0.0, window, kernel)
    near = {torch.float32: 2e-3}.get(dtype, 3e-2)
    torch.testing.assert_close(mine.float(), expected, atol=near, rtol=near)
    weight = torch.randn_like(expected)
    a, b = (torch.autograd.grad((x.float() * weight).sum(), qkv)[0].float() for x in (mine, expected))
    torch.testing.assert_close(a, b, atol=2 * near, rtol=2 * near)
    if kernel == "efficient":
        return
    dropped = torch.stack([attention(*qkv.unbind(1), packed, 0.3, window, kernel) for _ in range(300)]).float().mean(0)
    torch.testing.assert_close(dropped, expected, atol=0.4, rtol=0.1)
    leaves = [x.detach().requires_grad_() for x in qkv.unbind(1)]
    assert dropout_disagrees(kernel, window, leaves, packed) < 5e-3
