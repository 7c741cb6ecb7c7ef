"""fp16's range in a distillation: every part's products stay in it at the scale that is found, and what is summed over rows is float32."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from biomlm.distill.losses.config import LossConfig
from biomlm.distill.losses.relations import relation_distance
from biomlm.distill.objective import DistillObjective
from biomlm.distill.teachers.teacher import Teachers
from biomlm.model.config import ModelConfig
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.optim.config import OptimConfig
from biomlm.model.packed import Packed
from biomlm.pretrain.data.batches import Batch
from biomlm.training.distributed.ddp import DDPEngine
from biomlm.training.distributed.engine import LossModule
from biomlm.training.distributed.loss_scale import FLOOR, START
from biomlm.training.distributed.process_group import RankInfo, World
from biomlm.training.objective import LossDenominators

LARGEST = 65_504.0  # of fp16
PIECES, LENGTHS, MASKED = 512, (60, 90, 33, 73), 128


def model(layers: int, grown: float) -> MaskedLM:
    """As wide as base; `grown` multiplies all matrices."""
    torch.manual_seed(layers)
    config = ModelConfig(size="base", num_hidden_layers=layers, hidden_dropout=0.0, attention_dropout=0.0)
    made = MaskedLM(config.resolve(PIECES, 128, 1))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(grown if parameter.ndim == 2 else 1.0)
    return made


def batch() -> Batch:
    """A twentieth of the labels is one piece."""
    draw = torch.Generator().manual_seed(0)
    ids_t = torch.randint(5, PIECES, (sum(LENGTHS),), generator=draw)
    positions_m = torch.randperm(len(ids_t), generator=draw)[:MASKED].sort().values
    labels_m = ids_t[positions_m].clone()
    labels_m[::20] = 7
    return Batch(Packed(ids_t, LENGTHS), positions_m, labels_m)


def engine(config: LossConfig, precision: str, grown: float) -> DDPEngine:
    device = Device(torch.device("cpu"), precision)  # type: ignore[arg-type]
    student, teachers = model(1, grown), Teachers([model(2, grown)], device, PIECES, config.temperature)
    objective = DistillObjective(teachers, student.config, config, vocab_size=PIECES, steps=10, sources=["teacher"])
    return DDPEngine(LossModule(student, objective, device), World(RankInfo()), OptimConfig(), 10)


def backward(made: DDPEngine) -> list[torch.Tensor]:
    given = batch()
    made.zero_grad()
    made.backward(given, LossDenominators.of([given]), 1.0, True)
    return [p.grad / made.factor for p in made.trained.values() if p.grad is not None]


@pytest.mark.parametrize("grown", [1.0, 3.0])
@pytest.mark.parametrize(
    "parts",
    [
        {"kl": 5.0, "mlm": 2.0, "hidden": 0.0},
        {"kl": 0.0, "mlm": 0.0, "hidden": 3.0, "pooled": 1.0, "embeddings": 1.0},
        {"kl": 0.0, "mlm": 0.0, "hidden": 1.0, "distance": "mse"},
        {"kl": 0.0, "mlm": 0.0, "hidden": 0.0, "relations": 1.0},
        {"kl": 0.0, "mlm": 0.0, "hidden": 0.0, "relations": 1.0, "relation": "minilm", "relation_heads": 1},
    ],
    ids=["predictions", "cosine", "mse", "minilmv2", "minilm of one head"],
)
def test_no_product_leaves_fp16s_range(parts: dict[str, Any], grown: float, fp16_products: Callable[[], Any]) -> None:
    """At a scale that a few steps come down to; and the gradients are float32's there."""
    made, largest = engine(LossConfig(**parts), "fp16", grown), [LARGEST]
    assert made.scale is not None
    made.scale.factor *= 2
    while max(largest) >= LARGEST:
        made.scale.overflowed()
        with fp16_products() as products:
            found = backward(made)
        largest = products.largest
        assert (max(largest) < LARGEST) == all(bool(grad.isfinite().all()) for grad in found)
    assert made.factor >= START / 16
    assert max(largest) / made.factor * FLOOR < 1, "far to fall"
    exact = torch.cat([grad.flatten() for grad in backward(engine(LossConfig(**parts), "fp32", grown))])
    assert (torch.cat([grad.flatten() for grad in found]) - exact).norm() < 0.05 * exact.norm()


def test_a_relation_of_large_states_is_a_number() -> None:
    """|q|² of a hundred thousand, of which the score is an eighth."""
    q_th = torch.full((6, 64), 40.0, dtype=torch.float16)
    side = (q_th, q_th, q_th)
    assert float(relation_distance(side, side, (6,), 1, kind="minilmv2")) == 0
