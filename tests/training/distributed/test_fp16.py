"""fp16's range: no product of a step's head leaves it at the loss scale of that moment, and a lower scale lowers every one."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from biomlm.model.config import ModelConfig, Shape
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.kernels.cross_entropy import linear_cross_entropy
from biomlm.model.optim.config import OptimConfig
from biomlm.model.packed import Packed
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.pretrain.objectives.config import ObjectiveConfig
from biomlm.training.distributed.ddp import DDPEngine
from biomlm.training.distributed.engine import LossModule
from biomlm.training.distributed.loss_scale import FLOOR, START
from biomlm.training.distributed.process_group import RankInfo, World
from biomlm.training.objective import LossDenominators

LARGEST = 65_504.0  # of fp16
PIECES, MASK, MASKED = 2048, 4, 656


def zipf_batch() -> Batch:
    """Masked tokens drawn by Zipf's law, the commonest of them 5% of all, half of the tokens masked."""
    ranks = torch.arange(1, PIECES - 4, dtype=torch.float64)
    shares = (ranks + 1.3).reciprocal()
    shares[0] = shares[1:].sum() / 19
    draw = torch.Generator().manual_seed(0)
    ids_t = 5 + torch.multinomial(shares, 2 * MASKED, replacement=True, generator=draw)
    positions_m = torch.randperm(2 * MASKED, generator=draw)[:MASKED].sort().values
    labels_m = ids_t[positions_m].clone()
    ids_t[positions_m] = MASK
    return Batch(Packed(ids_t, (MASKED // 8,) * 16), positions_m, labels_m)


@pytest.fixture(params=["whole", "blocks"])
def head(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The head's loss at once, or by blocks of 64 rows."""
    if request.param == "blocks":
        monkeypatch.setattr(linear_cross_entropy, "__defaults__", (64 * PIECES,))
    return str(request.param)


def engine(precision: str) -> DDPEngine:
    """A model as wide as base, of one layer, at its initial weights."""
    torch.manual_seed(0)
    shape = ModelConfig(size="base", num_hidden_layers=1, hidden_dropout=0.0, attention_dropout=0.0)
    model = MaskedLM(shape.resolve(PIECES, 128, 1))
    device = Device(torch.device("cpu"), precision)  # type: ignore[arg-type]
    loss = LossModule(model, PretrainObjective(ObjectiveConfig(), model.config), device)
    return DDPEngine(loss, World(RankInfo()), OptimConfig(), 10)


def gradients(made: DDPEngine, batch: Batch) -> dict[str, Tensor]:
    """Those of the head's parameters, the scale divided out."""
    found: dict[str, Tensor] = {}

    def keep(loss: float, norm: float) -> bool:
        assert math.isfinite(norm)
        found.update(
            {n: p.grad for n, p in made.trained.items() if p.grad is not None and ("head" in n or "word" in n)}
        )
        return False

    terms = made.backward(batch, LossDenominators.of([batch]), 1.0, True)
    assert not made.step(terms, keep).moved
    return found


def test_no_product_of_the_head_leaves_fp16s_range(head: str, fp16_products: Callable[[], Any]) -> None:
    """The scale that training starts with holds, and every product in the backward pass goes down with it."""
    made, batch, seen = engine("fp16"), zipf_batch(), {}
    assert made.scale is not None
    exact = gradients(engine("fp32"), batch)
    for scale in (START, START / 64):
        made.scale.factor = scale
        with fp16_products() as products:
            found = gradients(made, batch)
        assert max(products.largest) < LARGEST
        seen[scale] = products.largest
        for name, gradient in found.items():
            apart = (gradient - exact[name]).norm() / exact[name].norm()
            assert apart < 2e-2, f"{name} at {scale}"
    forward = [a for a, b in zip(*seen.values(), strict=True) if a == b]
    falls = [a / b for a, b in zip(*seen.values(), strict=True) if a != b]
    assert falls == pytest.approx([64] * len(falls), rel=0.1), (
        "no constant factor: the backward pass goes with the scale"
    )
    largest = max(seen[START])
    assert max(forward) < 100, "the forward pass does not depend on it"
    assert largest / START * FLOOR < 1e-3, "the scale can fall by far more than is needed"


PAIRS: dict[str, int] = {"nsp": 2, "sop": 2, "drp": 3, "sso": 3}  # labels


def paired(batch: Batch, labels: int) -> Batch:
    """With segments, and a label a sequence."""
    ids_t, lengths = batch.packed.input_ids_t, batch.packed.lengths
    types_t = (torch.arange(len(ids_t)) % lengths[0] > lengths[0] // 2).long()
    return replace(batch, packed=Packed(ids_t, lengths, types_t), pair_labels_b=torch.arange(len(lengths)) % labels)


def settled(made: DDPEngine, batch: Batch, watch: Callable[[], Any]) -> list[float]:
    """The largest numbers of a micro-batch's products, at the first loss scale at which all can be held, to which training comes down."""
    assert made.scale is not None
    while True:
        with watch() as products:
            made.backward(batch, LossDenominators.of([batch]), 1.0, True)
        found = [p.grad for p in made.trained.values() if p.grad is not None]
        held = all(bool(grad.isfinite().all()) for grad in found)
        assert held == (max(products.largest) < LARGEST), "what overflows reaches a gradient, where it is seen"
        if held:
            largest: list[float] = products.largest
            return largest
        made.zero_grad()
        made.scale.overflowed()


def step_of(
    objective: str, shape: Shape, *, layers: int, pieces: int = PIECES, grown: float = 1.0
) -> tuple[DDPEngine, Batch]:
    """An engine as wide as base and a micro-batch; `grown` multiplies all matrices, which peaks attention and predictions."""
    torch.manual_seed(0)
    config = ModelConfig(shape, "base", num_hidden_layers=layers, hidden_dropout=0.0, attention_dropout=0.0)
    model = MaskedLM(config.resolve(pieces, 128, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(grown if parameter.ndim == 2 else 1.0)
    weights = {objective: 1.0} if objective in PAIRS else {}
    loss = LossModule(
        model, PretrainObjective(ObjectiveConfig(**weights), model.config), Device(torch.device("cpu"), "fp16")
    )
    batch = zipf_batch()
    batch = paired(batch, PAIRS[objective]) if objective in PAIRS else batch
    return DDPEngine(loss, World(RankInfo()), OptimConfig(), 10), batch


def holds(objective: str, shape: Shape, watch: Callable[[], Any], **how: Any) -> None:
    """Few steps find a scale at which small gradients survive; there is no constant factor, and far to fall."""
    made, batch = step_of(objective, shape, **how)
    assert made.scale is not None
    largest = settled(made, batch, watch)
    assert made.scale.factor >= START / 64
    made.zero_grad()
    made.scale.factor /= 64
    pairs = [(a, a / b) for a, b in zip(largest, settled(made, batch, watch), strict=True) if b]
    forward = [a for a, fall in pairs if fall == 1]
    falls = [fall for a, fall in pairs if fall != 1 and a > 1]  # smaller ones fp16 rounds too far
    assert falls == pytest.approx([64] * len(falls), rel=0.2)
    assert max(forward) < LARGEST / 16
    assert max(largest) / made.scale.factor / 64 * FLOOR < 1


@pytest.mark.parametrize("grown", [1.0, 3.0])
@pytest.mark.parametrize(
    ("objective", "shape"),
    [("mlm", "roberta"), ("mlm", "modernbert"), *((name, "megatron-bert") for name in PAIRS)],
)
def test_no_product_of_a_step_leaves_fp16s_range(
    objective: str, shape: Shape, grown: float, fp16_products: Callable[[], Any]
) -> None:
    holds(objective, shape, fp16_products, layers=1, grown=grown)


@pytest.mark.slow
@pytest.mark.parametrize("grown", [1.0, 3.0])
@pytest.mark.parametrize(("objective", "shape"), [("mlm", "roberta"), ("nsp", "bert")])
def test_no_product_of_base_leaves_fp16s_range(
    objective: str, shape: Shape, grown: float, fp16_products: Callable[[], Any]
) -> None:
    holds(objective, shape, fp16_products, layers=12, pieces=50_048, grown=grown)
