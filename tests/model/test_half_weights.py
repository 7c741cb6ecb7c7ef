"""Copies that are lent: autocast's figures bit by bit, anew after every step, and an encoder layer of 14 kernels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from biomlm.model.config import ModelConfig
from biomlm.model.device import Device
from biomlm.model.encoder import Layer, MaskedLM
from biomlm.model.half_weights import HalfWeights
from biomlm.model.kernels import dropout, linear
from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.optimizer import freeze
from biomlm.model.packed import Packed
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.pretrain.objectives.config import ObjectiveConfig
from biomlm.training.distributed.ddp import DDPEngine
from biomlm.training.distributed.engine import LossModule
from biomlm.training.distributed.process_group import RankInfo, World
from biomlm.training.objective import LossDenominators

V = 97
Launches = Callable[[], Any]


def batch(seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    ids_t = torch.randint(4, V, (40,), generator=draw)
    positions_m = torch.arange(0, 40, 5)
    return Batch(Packed(ids_t, (11, 9, 20)), positions_m, ids_t[positions_m])


def engine(shape: str, precision: str, *, frozen: int = 0, recompute: bool = False, dropout: float = 0.1) -> DDPEngine:
    torch.manual_seed(0)
    model = MaskedLM(ModelConfig(shape, "tiny", num_hidden_layers=2, hidden_dropout=dropout).resolve(V, 40, 1)).train()
    model.encoder.recompute = recompute
    freeze(model, frozen)
    loss = LossModule(model, PretrainObjective(ObjectiveConfig(), model.config), Device(torch.device("cpu"), precision))  # type: ignore[arg-type]
    return DDPEngine(loss, World(RankInfo()), OptimConfig(lr=1e-2, warmup=0), 10)


def trained(engine: DDPEngine) -> list[Tensor]:
    """Weights after three steps of two micro-batches."""
    for step in range(3):
        engine.begin(step, timed=False)
        for number in range(2):
            torch.manual_seed(10 * step + number)
            sums = engine.backward(batch(2 * step + number), LossDenominators(16, 80), 1.0, last=number == 1)
        engine.step(sums, lambda *_: True)
    return [p.detach().clone() for p in engine.model.parameters()]


@pytest.mark.parametrize("shape", ["roberta", "modernbert"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("how", [{}, {"frozen": 1}, {"recompute": True}], ids=str)
def test_the_weights_move_as_with_autocasts_own_copies(shape: str, precision: str, how: Any) -> None:
    with_copies, autocasts = engine(shape, precision, **how), engine(shape, precision, **how)
    assert with_copies.half is not None
    autocasts.half = None
    for mine, theirs in zip(trained(with_copies), trained(autocasts), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.filterwarnings("default")  # of what torch.compile raises and hides inside itself
def test_compiled_layers_take_the_copies_and_are_compiled_once() -> None:
    torch._dynamo.reset()
    """Without dropout, whose own function on a CPU torch.compile cannot look into."""
    with_copies, autocasts = (engine("roberta", "bf16", dropout=0.0) for _ in range(2))
    autocasts.half = None
    for each in (with_copies, autocasts):
        each.model.encoder.compile_layers("blocks", "aot_eager")
    first = trained(with_copies)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    trained(with_copies)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "new copies in each step make no new graph"
    for mine, theirs in zip(first, trained(autocasts), strict=True):
        assert torch.equal(mine, theirs)


def test_full_precision_and_evaluation_take_the_weights_themselves() -> None:
    assert engine("roberta", "fp32").half is None
    lending = engine("roberta", "bf16")
    trained(lending)
    assert all(module.lent is None for module in lending.model.modules() if isinstance(module, linear.Linear))


def test_a_copy_is_made_once_for_all_micro_batches_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    plain = torch._foreach_copy_
    monkeypatch.setattr(torch, "_foreach_copy_", lambda to, of: (copied.append(to[0].element_size()), plain(to, of)))
    trained(engine("roberta", "bf16"))
    parts = 3  # two layers and the head
    assert (copied.count(2), copied.count(4)) == (3 * parts, 3 * 2 * parts), "forward once a step, backward each time"


class Kernels(TorchDispatchMode):
    """Names what a GPU would be asked to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in ("empty", "empty_like", "detach", "_unsafe_view"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def packed_attention(q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, *_: Any) -> Tensor:
    """Stands for a fused kernel for packed rows: as one operation, whose figures do not matter."""
    assert {x.dtype for x in (q_tnd, k_tnd, v_tnd)} == {torch.bfloat16}
    return F.scaled_dot_product_attention(q_tnd[None], k_tnd[None], v_tnd[None])[0]


@pytest.mark.parametrize(("lent", "most"), [(False, 22), (True, 14)])
def test_a_layer_asks_for_at_most_14_kernels(lent: bool, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on compute capability 8.0 and later: 16 bits, a kernel for packed rows, torch's own products and dropout."""
    monkeypatch.setattr(linear, "DTYPES", set())
    monkeypatch.setattr(dropout, "dropout", lambda x, p: torch.native_dropout(x, p, True)[0])  # as F.dropout on CUDA
    model = MaskedLM(ModelConfig(size="tiny").resolve(V, 40, 1)).train()
    layer = model.encoder.layers[1]
    assert isinstance(layer, Layer)
    layer.attention.mix = packed_attention  # type: ignore[assignment]
    x_th, packed = torch.randn(40, 128), batch(0).packed
    half = HalfWeights(model, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        if lent:
            with half.lent():
                layer(x_th, packed, None)  # makes the copies
        with half.lent() if lent else torch.enable_grad(), Kernels() as kernels:
            layer(x_th, packed, None)
    assert len(kernels.names) == most, kernels.names
