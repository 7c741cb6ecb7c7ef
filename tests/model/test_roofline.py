"""The roofline's counts against what torch dispatches for a layer, the head and an optimiser, on a CPU made to look like a GPU."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from biomlm.model.config import ModelConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.half_weights import HalfWeights
from biomlm.model.kernels import cross_entropy, dropout, linear
from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.optimizer import Optimizer
from biomlm.model.packed import Packed
from biomlm.model.roofline import Efficiency, Way, Work, head, layer_backward, layer_forward, optimizer

TOKENS, LENGTH, V = 4096, 256, 2048
PRODUCTS = {"mm", "addmm", "bmm"}
ONE_OF_A_ROW = {"gather", "scatter_add_"}  # they name the whole, and touch one number of a row
NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "_unsafe_view"}


class Kernels(TorchDispatchMode):
    """Counts kernels, and what those beside products and attention read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.moved, self.names = 0, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if func.is_view or name in NOTHING:
            return out
        self.names[name] += 1
        if name in ONE_OF_A_ROW:
            return out
        if name not in PRODUCTS and "scaled_dot_product" not in name:
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
            if out is None and name != "_foreach_copy_":  # in place: what is written is read before
                pairs = zip(func._schema.arguments, args, strict=False)
                tensors += tree_leaves([arg for spec, arg in pairs if spec.alias_info and spec.alias_info.is_write])
            self.moved += sum(x.numel() * x.element_size() for x in tensors)
        return out


@pytest.fixture(autouse=True)
def like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Products and dropout as torch's own, attention in one operation, 16 bits by autocast."""
    monkeypatch.setattr(linear, "DTYPES", set())
    monkeypatch.setattr(dropout, "dropout", lambda x, p: torch.native_dropout(x, p, True)[0])
    with torch.autocast("cpu", torch.bfloat16):
        yield


def attention(q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, *_: Any) -> Tensor:
    b, (t, n, d) = TOKENS // LENGTH, q_tnd.shape
    q, k, v = (x.view(b, t // b, n, d).transpose(1, 2) for x in (q_tnd, k_tnd, v_tnd))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(t, n, d)


def model_of(shape: str) -> MaskedLM:
    torch.manual_seed(0)
    return MaskedLM(ModelConfig(shape, "tiny", num_hidden_layers=2).resolve(V, LENGTH, 1)).train()


def layer_counts(model: MaskedLM, *, copies_once: bool) -> tuple[Kernels, Kernels]:
    """Of the second layer's forward and backward pass in a step's second micro-batch."""
    layer, half = model.encoder.layers[1], HalfWeights(model, torch.bfloat16)
    layer.attention.mix = attention  # type: ignore[union-attr, assignment]
    packed = Packed(torch.zeros(TOKENS, dtype=torch.int64), (LENGTH,) * (TOKENS // LENGTH))
    tables = model.encoder._rotary(packed.position_ids_t)
    with half.lent() if copies_once else torch.enable_grad():
        for _ in range(2):
            x_th = torch.randn(TOKENS, model.config.hidden_size, requires_grad=True)
            torch.clear_autocast_cache()
            with Kernels() as forward:
                y_th = layer(x_th, packed, tables[1])
            gradient_th = torch.randn_like(y_th)
            with Kernels() as backward:
                y_th.backward(gradient_th)
    return forward, backward


@pytest.mark.parametrize("shape", ["roberta", "megatron-bert", "modernbert"])
@pytest.mark.parametrize("copies_once", [True, False])
def test_a_layers_kernels_and_bytes(shape: str, copies_once: bool) -> None:
    model, way = model_of(shape), Way(copies_once=copies_once)
    forward, backward = layer_counts(model, copies_once=copies_once)
    ahead, back = (count(model.config, TOKENS, LENGTH, way) for count in (layer_forward, layer_backward))
    assert (ahead.launches, back.launches) == (forward.names.total(), backward.names.total())
    assert ahead.moved == pytest.approx(forward.moved, rel=0.01)
    again = (
        16 * model.config.hidden_size * TOKENS
    )  # by a layer norm's second kernel, which torch does not dispatch apart
    assert back.moved == pytest.approx(backward.moved + again, rel=0.02)


def test_a_layers_products() -> None:
    model = model_of("roberta")
    x_th = torch.randn(TOKENS, 128, requires_grad=True)
    packed = Packed(torch.zeros(TOKENS, dtype=torch.int64), (LENGTH,) * (TOKENS // LENGTH))
    model.encoder.layers[0].attention.mix = attention  # type: ignore[union-attr, assignment]
    with FlopCounterMode(display=False) as flops:
        model.encoder.layers[0](x_th, packed, None).sum().backward()
    works = (count(model.config, TOKENS, LENGTH, Way()) for count in (layer_forward, layer_backward))
    assert sum(work.products for work in works) == pytest.approx(flops.get_total_flops(), rel=1e-6), "beside attention"


@pytest.mark.parametrize("predicted", [600, 20_000])
def test_the_heads_kernels_and_bytes(predicted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and in three blocks of 8,192 logits' rows."""
    monkeypatch.setattr(cross_entropy, "is_predicted", lambda scores, labels: scores.argmax(-1) == labels)
    model = model_of("roberta")
    rows = cross_entropy.BLOCK // V // 16 * 16
    labels_m, states_mh = torch.randint(0, V, (predicted,)), torch.randn(predicted, 128, requires_grad=True)
    if predicted > 2 * rows:
        monkeypatch.setattr(cross_entropy, "LARGE", 0)
    with Kernels() as seen:
        x_mh = model.head.transform(states_mh)
        decoder = model.encoder.word_embeddings.weight, model.head.bias
        if predicted > 2 * rows:
            loss, _ = cross_entropy.linear_cross_entropy(x_mh, *decoder, labels_m)
        else:
            loss, _ = cross_entropy.cross_entropy(F.linear(x_mh, *decoder), labels_m)
        loss.backward()
    work = head(model.config, predicted, Way())
    assert work.launches == pytest.approx(seen.names.total(), rel=0.2), seen.names
    assert work.moved == pytest.approx(seen.moved, rel=0.1)


def test_an_optimisers_bytes() -> None:
    named = {str(i): torch.nn.Parameter(torch.ones(64, 64)) for i in range(20)}
    adam = Optimizer(named, 0, OptimConfig(warmup=0), 10)
    for step in range(2):
        for p in named.values():
            p.grad = torch.ones_like(p)
        with Kernels() as seen:
            adam.step(step)
    assert optimizer(20 * 64 * 64, 2).moved == pytest.approx(seen.moved, rel=0.1), seen.names


def test_time_is_the_devices_or_the_hosts() -> None:
    work, efficiency = Work(1e12, 1e11, 1e9, 1000), Efficiency(0.5, 0.8, 0.25, 1e-6)
    assert work.seconds(100, 1000, efficiency) == pytest.approx(0.02 + 0.004 + 0.00125)
    assert (work * 0).seconds(100, 1000, efficiency) == 0
    assert Work(launches=50_000).seconds(100, 1000, efficiency) == pytest.approx(0.05)
