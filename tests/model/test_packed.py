"""Filler behind a micro-batch: few sizes, and no trace in what comes out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from biomlm.model.config import EncoderConfig, ModelConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.packed import Packed, pack, round_to_bucket, rows_for

PRODUCTS = ("linear", "mm", "bmm", "addmm")


def model_of(max_positions: int = 12, **how: Any) -> MaskedLM:
    torch.manual_seed(0)
    config: EncoderConfig = ModelConfig(size="tiny", **how).resolve(50, max_positions, 1)
    return MaskedLM(config)


@given(st.integers(1, 1 << 20))
def test_a_size_is_little_more(n: int) -> None:
    size = round_to_bucket(n)
    assert n <= size < n + max(16, n / 63)
    assert round_to_bucket(size) == size


def test_sizes_are_few() -> None:
    sizes = [len({round_to_bucket(n) for n in range(top // 2 + 1, top + 1)}) for top in (512, 2048, 8192, 1 << 17)]
    assert sizes == [16, 64, 64, 64]


def test_an_accelerator_multiplies_whole_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows too that the head runs on; a CPU's sizes are others. Autocast knows no meta device."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    meta, cpu = torch.device("meta"), torch.device("cpu")
    assert [rows_for(n, meta) for n in (0, 1, 64, 65, 32_700)] == [64, 64, 64, 128, 32_704]
    assert [rows_for(n, cpu) for n in (1, 65, 32_700)] == [16, 80, 32_768]
    with meta:
        model = model_of(max_positions=512).train()
        packed = Packed(torch.empty(700, dtype=torch.int64), (300, 400))
        rows_m = torch.empty(100, dtype=torch.int64)
    model.encoder.use_attention("padded")
    rows = list[int]()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    states = model.encoder(packed, rows_m)[-1]
    model.masked_loss(states, rows_m)
    assert len(states) == 100
    assert set(rows) == {704, 128}


def test_a_compiled_layer_is_told_where_sequences_lie_and_a_little_more_than_the_longest() -> None:
    packed = Packed(torch.zeros(140, dtype=torch.int64), (9, 129, 2))
    assert packed.spans.cu_seqlens is packed.cu_seqlens
    assert [packed.spans.max_seqlen, Packed(torch.zeros(128, dtype=torch.int64), (128,)).spans.max_seqlen] == [256, 128]


SEQUENCES = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [20, 21, 22, 23, 24, 25, 26, 27]]


@pytest.mark.parametrize("shape", ["roberta", "bert", "modernbert"])
def test_filler_leaves_no_trace(shape: str) -> None:
    """17 tokens need 15 of filler, more than a sequence may be long."""
    model, packed = model_of(shape=shape).eval(), pack(SEQUENCES)
    filled = packed.pad_to_bucket()
    assert (filled.lengths, filled.max_seqlen, len(filled.input_ids_t)) == ((9, 8, 9, 6), 9, 32)
    assert torch.equal(filled.input_ids_t[:17], packed.input_ids_t)
    hidden = model.encoder(packed)
    assert [len(x) for x in hidden] == [17] * len(hidden)
    for sequence, mine in zip(SEQUENCES, torch.split(hidden[-1], packed.lengths), strict=True):
        torch.testing.assert_close(mine, model.encoder(pack([sequence]))[-1], atol=1e-5, rtol=1e-5)
    hidden[-1].square().sum().backward()
    gradient = model.encoder.word_embeddings.weight.grad
    assert gradient is not None
    in_it = torch.zeros(50, dtype=torch.bool).index_fill(0, packed.input_ids_t, True)
    assert torch.equal(gradient.any(-1), in_it), "of pieces in the batch, and not of filler's"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("shape", ["roberta", "megatron-bert", "modernbert"])
def test_the_last_layer_at_some_rows_is_all_of_it_at_those_rows(
    shape: str, recompute: bool, dtype: torch.dtype
) -> None:
    """States and every gradient, for rows in any order and one of them twice, to some units of a tensor's largest value's last place."""
    model, packed, rows = model_of(shape=shape).eval().to(dtype), pack(SEQUENCES), torch.tensor([11, 0, 8, 8, 3])
    model.encoder.recompute = recompute
    found = []
    for states in (model.encoder(packed)[-1][rows], model.encoder(packed, rows)[-1]):
        weight = torch.arange(states.numel()).view(states.shape).sin().to(dtype)
        gradients = torch.autograd.grad((states * weight).sum(), list(model.encoder.parameters()))
        found.append((states, *gradients))
    for whole, part in zip(*found, strict=True):
        torch.testing.assert_close(
            part, whole, atol=16 * torch.finfo(dtype).eps * whole.detach().abs().max().item(), rtol=0
        )


def test_no_rows_at_all() -> None:
    model = model_of()
    states = model.encoder(pack(SEQUENCES), torch.zeros(0, dtype=torch.int64))[-1]
    loss, right = model.masked_loss(states, torch.zeros(0, dtype=torch.int64))
    assert (states.shape, loss.item(), right.item()) == ((0, 128), 0, 0)
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_filler_has_types_where_tokens_have() -> None:
    packed = pack(SEQUENCES)
    filled = Packed(packed.input_ids_t, packed.lengths, torch.ones_like(packed.input_ids_t)).pad_to_bucket()
    assert filled.token_type_ids_t is not None
    assert filled.token_type_ids_t.tolist() == [1] * 17 + [0] * 15


class Shapes(TorchDispatchMode):
    """The shapes of every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[Any, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(word in str(func) for word in PRODUCTS):
            sizes = tuple(tuple(x.shape) for x in args if isinstance(x, torch.Tensor))
            self.seen.add((str(func), *sizes))
        return func(*args, **(kwargs or {}))


def shapes_of(steps: Callable[[], None]) -> int:
    with Shapes() as shapes:
        steps()
    return len(shapes.seen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_of_many_sizes_make_products_of_few_shapes(dtype: torch.dtype) -> None:
    """What oneDNN keeps for each shape made a long run's memory grow without an end."""
    model = model_of(max_positions=64).train()
    generator = torch.Generator().manual_seed(0)

    def step(lengths: list[int], masked: int) -> None:
        ids = torch.randint(5, 50, (sum(lengths),), generator=generator)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            hidden = model.encoder(Packed(ids, tuple(lengths)), torch.arange(masked))[-1]
            loss, _ = model.masked_loss(hidden, ids[:masked])
        loss.backward()

    every = [[49 + i % 15, 33 + i * 5 % 13] for i in range(40)]
    assert len(set(map(sum, every))) >= 20, "different numbers of tokens"
    one = shapes_of(lambda: step([64, 48], 32))
    all_of_them = shapes_of(lambda: [step(lengths, 17 + i % 15) for i, lengths in enumerate(every)] and None)
    assert one <= all_of_them <= 2 * one, "two sizes of the whole, one of each sequence"
