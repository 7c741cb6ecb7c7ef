"""`biomlm pretrain`: token shards → run folder."""

import sys
from pathlib import Path

from biomlm.convert.load import read_source
from biomlm.core.files import refuse_target, stage
from biomlm.model.config import EncoderConfig
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.pretrain.training import run_folder
from biomlm.pretrain.training.initial_model import initial_model
from biomlm.training.trainer import seed_weights

STAGE = "pretrain"


def pretrain(config: PretrainConfig) -> None:
    """Pretrain, or go on with, one model."""
    inputs = [*config.folders, config.init or "", config.longer or ""]
    refuse_target(config.out, inputs, option="--out", ours=stage)
    reader = Shards(config.folders, "train")
    model, origin = initial_model(config, reader)
    objective = initial_objective(config, model.config)
    record = run_folder.start(config, STAGE, reader, model, inputs=origin)
    if record.status == "done":
        run_folder.show(STAGE, Path(config.out))
        return
    run_folder.train(config, record, reader, model, objective=objective)


def initial_objective(config: PretrainConfig, encoder: EncoderConfig) -> PretrainObjective:
    """Make the objective with seeded random weights, or with those that the model to start from brings along."""
    seed_weights(
        config.seed + 1
    )  # drawn apart from the model's, which starts as it would without layers of the objective
    objective = PretrainObjective(config.objective, encoder)
    own = [name for name, _ in objective.named_parameters()]
    if config.init is not None and own:
        taken = objective.take(read_source(config.init).extra_tensors)
        new = sorted(set(own) - set(taken))
        if new:
            print(
                f"biomlm {STAGE}: {config.init} has no fitting {', '.join(new)}: new ones are learnt", file=sys.stderr
            )
    return objective
