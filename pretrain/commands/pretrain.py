"""`biolm pretrain`: token shards → run folder."""

import sys
from pathlib import Path

from biolm.convert.load import read_parts
from biolm.core.cli import Verb
from biolm.model.config import EncoderConfig
from biolm.pretrain import run
from biolm.pretrain.config import PretrainConfig
from biolm.pretrain.estimate import estimate
from biolm.pretrain.loop import seed_weights
from biolm.pretrain.objective import PretrainObjective
from biolm.pretrain.shards import Shards

STAGE = "pretrain"


def pretrain(config: PretrainConfig) -> None:
    """Pretrain, or go on with, one model."""
    reader = Shards(config.folders, "train")
    model = run.initial_model(config, reader)
    objective = initial_objective(config, model.config)
    record = run.start(config, STAGE, reader, model, {})
    if record.status == "done":
        run.show(STAGE, Path(config.out))
        return
    run.train(config, record, reader, model, objective)


def initial_objective(config: PretrainConfig, encoder: EncoderConfig) -> PretrainObjective:
    """The objective with seeded random weights, or with those that the model to start from brings along."""
    seed_weights(config.seed + 1)  # drawn apart from the model's, which starts as it would without a pair objective
    objective = PretrainObjective(config.objective, encoder)
    if config.init is not None and config.objective.pair is not None:
        taken = objective.take(read_parts(config.init).rest)
        new = sorted(name for name, _ in objective.named_parameters() if name not in taken)
        if new:
            print(f"biolm {STAGE}: {config.init} has no fitting {', '.join(new)}: new ones are learnt", file=sys.stderr)
    return objective


VERB = Verb(
    config=PretrainConfig,
    run=pretrain,
    example="biolm pretrain --shards SHARDS --model.size tiny --steps 200 --seed 1 --out RUN",
    estimate=estimate,
)
