"""`biolm pretrain`: token shards → run folder."""

from pathlib import Path

from biolm.core.cli import Verb
from biolm.pretrain import run
from biolm.pretrain.config import PretrainConfig
from biolm.pretrain.objective import MlmObjective

STAGE = "pretrain"


def pretrain(config: PretrainConfig) -> None:
    """Pretrain, or go on with, one model."""
    record, reader = run.start(config, STAGE, {})
    if record.status == "done":
        run.show(STAGE, Path(config.out))
        return
    run.train(config, record, reader, run.initial_model(config, reader), MlmObjective())


VERB = Verb(
    config=PretrainConfig,
    run=pretrain,
    example="biolm pretrain --shards SHARDS --model.size tiny --steps 200 --seed 1 --out RUN",
)
