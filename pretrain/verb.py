"""`biolm pretrain`: token shards → run folder."""

from pathlib import Path

from biolm.core.cli import Verb
from biolm.pretrain import run
from biolm.pretrain.config import PretrainConfig
from biolm.pretrain.objective import MlmObjective
from biolm.pretrain.shards import Shards

STAGE = "pretrain"


def pretrain(config: PretrainConfig) -> None:
    """Pretrain, or go on with, one model."""
    reader = Shards(config.folders, "train")
    model = run.initial_model(config, reader)
    record = run.start(config, STAGE, reader, model, {})
    if record.status == "done":
        run.show(STAGE, Path(config.out))
        return
    run.train(config, record, reader, model, MlmObjective())


VERB = Verb(
    config=PretrainConfig,
    run=pretrain,
    example="biolm pretrain --shards SHARDS --model.size tiny --steps 200 --seed 1 --out RUN",
)
