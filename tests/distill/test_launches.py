"""How many kernels a device is asked for, counted on the meta device: ceilings, so that a loop over rows or sequences is seen."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from biomlm.distill.losses.config import LossConfig
from biomlm.distill.objective import DistillObjective
from biomlm.distill.teachers.teacher import Teachers
from biomlm.model.config import ModelConfig
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.kernels.cross_entropy import linear_cross_entropy
from biomlm.model.packed import Packed
from biomlm.pretrain.data.batches import Batch
from biomlm.training.objective import LossDenominators

META = torch.device("meta")
PIECES, LENGTHS = 50_048, (512, 250, 140, 190) * 15  # 16,380 tokens in 60 sequences
TOKENS, MASKED = sum(LENGTHS), 2457
MOVES_NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "_unsafe_view"}


class Launches(TorchDispatchMode):
    """Counts what is dispatched beside views and allocations; a few of these are several kernels on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and func.overloadpacket.__name__ not in MOVES_NOTHING
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows no meta device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)


def efficient(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0) -> Tensor:
    """What torch's fused attention is on a GPU below sm80, one kernel each way; on the meta device it is a dozen plain operations."""
    bias = None if attn_mask is None else attn_mask.expand(*q.shape[:3], k.shape[2])
    out, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, dropout_p)
    assert isinstance(out, Tensor)
    return out


@pytest.fixture(autouse=True)
def fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", efficient)


def model(width: int, layers: int) -> MaskedLM:
    shape = ModelConfig(size="base", hidden_size=width, num_hidden_layers=layers, num_attention_heads=12)
    with META:
        encoder = MaskedLM(shape.resolve(PIECES, 512, 1))
    encoder.encoder.use_attention("padded")
    return encoder


def batch() -> Batch:
    packed = Packed(torch.empty(TOKENS, dtype=torch.int64, device=META), LENGTHS)
    rows_m = torch.empty(MASKED, dtype=torch.int64, device=META)
    return Batch(packed, rows_m, torch.empty_like(rows_m))


def test_a_distillation_micro_batch_is_at_most_1500_launches() -> None:
    """DistilRoBERTa's six layers and a base teacher, with whole predictions, states and relations.

    In a CPU's blocks, and sequence by sequence, it is 17,420.
    """
    student, teacher = model(768, 6), model(768, 12)
    teacher.encoder.use_attention("efficient")  # it drops nothing, so that a V100 packs it
    parts = LossConfig(kl=1.0, mlm=1.0, hidden=1.0, embeddings=1.0, relations=1.0)
    with META:
        teachers = Teachers([teacher], Device(META, "fp32"), PIECES)
        objective = DistillObjective(
            teachers, student=student.config, config=parts, vocab_size=PIECES, steps=10, sources=["teacher"]
        )
    with Launches() as launches:
        terms = objective(student, batch(), LossDenominators(MASKED, TOKENS))
        terms["loss"].backward()
    assert 500 < launches.count <= 1230


def test_a_layer_and_the_head_ask_for_few_kernels() -> None:
    counts = []
    for layers in (1, 2):
        encoder, packed = model(768, layers).encoder, batch().packed
        with Launches() as launches:
            encoder(packed)
        counts.append(launches.count)
    assert counts[1] - counts[0] <= 28, "a layer's forward pass, with dropout and padding"
    x_mh = torch.empty(MASKED, 768, device=META, requires_grad=True)
    weight_vh = torch.empty(PIECES, 768, device=META, requires_grad=True)
    bias_v = torch.empty(PIECES, device=META, requires_grad=True)
    labels_m = torch.empty(MASKED, device=META, dtype=torch.int64)
    with Launches() as launches:
        loss, _ = linear_cross_entropy(x_mh, weight_vh, bias_v, labels_m)
        loss.backward()  # type: ignore[no-untyped-call]
    assert launches.count <= 116, "forward and backward, in blocks"
