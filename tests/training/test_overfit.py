"""A tiny model learns 32 real sequences by heart, whatever the objective and the shape."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from biomlm.model.config import ModelConfig, Shape
from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.data.batches import Batches
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.data.order import EpochPlan
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.pretrain.objectives.config import MlmConfig, ObjectiveConfig
from biomlm.training.objective import LossDenominators

SEQUENCES, LENGTH, MOST_STEPS = 32, 24, 400
LEARNT = 0.05  # nats
MASKS: dict[str, dict[str, Any]] = {
    "token": {},
    "word": {"unit": "word"},
    "ngram": {"unit": "ngram"},
    "pos": {"pos": ["SMALL"], "mask_rate": 1, "mask_share": 1, "random_share": 0},
    "static": {"max_predictions": 3, "static_masks": 5},
}
CASES = [(shape, objective, "token") for shape in get_args(Shape) for objective in ("mlm", "nsp", "sop", "drp")]
CASES += [("roberta", "mlm", masks) for masks in MASKS if masks != "token"]


@pytest.mark.parametrize(("shape", "kind", "masks"), CASES)
def test_it_learns_32_sequences_by_heart(shape: Shape, kind: str, masks: str, bundled: dict[str, Path]) -> None:
    weights = ObjectiveConfig(**{kind: 1.0})  # type: ignore[arg-type]
    shards = Shards([bundled["wordpiece"]], "train")
    sizes = BatchConfig(tokens=LENGTH, max_length=LENGTH, form="pairs" if weights.pairing else "document")
    torch.manual_seed(0)
    model_config = ModelConfig(
        shape=shape,
        num_hidden_layers=2,
        hidden_size=64,
        num_attention_heads=2,
        intermediate_size=128,
        hidden_dropout=0,
        attention_dropout=0,
    ).resolve(shards.vocab_size, LENGTH, shards.ids.pad)
    made = Batches(
        shards, MlmConfig(**MASKS[masks]), sizes, 1, pairing=weights.pairing, segments=model_config.type_vocab_size > 1
    )
    plan = EpochPlan(made.epochs(0), np.arange(SEQUENCES), np.array([0, SEQUENCES]))
    made.order.plan = lambda _: plan  # type: ignore[assignment]
    batch = made.micro_batch(0, 0)
    assert batch is not None
    assert len(batch.packed.lengths) == SEQUENCES

    model, totals = MaskedLM(replace(model_config, initializer_range=0.1)), LossDenominators.of([batch])
    objective = PretrainObjective(weights, model.config)
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *objective.parameters()], lr=5e-3, betas=(0.9, 0.98), fused=True
    )
    for _ in range(MOST_STEPS):
        terms = objective(model, batch, totals)
        if terms["loss"] < LEARNT:
            break
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    assert terms["loss"] < LEARNT
    assert all(terms[name] > 0.99 for name in terms if name.endswith("accuracy"))
