"""Give a task to the training loop: its model, its loss, its batches, and the development fold as judge.

The loop never sees the test fold.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from biomlm.convert.load import Loaded
from biomlm.core import rng
from biomlm.finetune.config import FinetuneConfig
from biomlm.finetune.tasks.base import G, R, Task
from biomlm.finetune.tasks.heads import Classifier
from biomlm.finetune.training.batches import FoldBatches, TaskBatch
from biomlm.finetune.training.selection import BestEpoch, BestOnDev, DevEvaluation
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.optim.optimizer import freeze
from biomlm.training.config import LoopConfig
from biomlm.training.distributed.ddp import DDPEngine
from biomlm.training.distributed.engine import LossModule
from biomlm.training.distributed.process_group import World
from biomlm.training.objective import LossDenominators, Objective
from biomlm.training.result import TrainResult
from biomlm.training.trainer import Trainer


class TaskObjective(Objective[Classifier, TaskBatch]):
    """A task's loss, as a mean over the labelled places of a step.

    Args:
        task: Computes its sum.
    """

    reads_all_rows = False

    def __init__(self, task: Task[Any, Any]):
        super().__init__()
        self.task = task

    def forward(self, model: Classifier, batch: TaskBatch, totals: LossDenominators) -> dict[str, Tensor]:
        """See `Objective.forward`."""
        rows = model(batch.packed, batch.positions_m)
        rows = rows.float() if rows.dtype == torch.float16 else rows  # a sum of losses leaves fp16's range
        with torch.autocast(rows.device.type, enabled=False):
            return {"loss": self.task.loss(rows, batch.targets_m) / totals.masked}

    def over(self, term: str) -> Collection[str]:  # noqa: ARG002 there is one
        """See `Objective.over`."""
        return ("masked",)


def build_model(task: Task[R, G], loaded: Loaded, config: FinetuneConfig, seed: int | None = None) -> Classifier:
    """Build the task's model with a head drawn from the seed, layers frozen and initialized again as the configuration says.

    Args:
        task: Whose model.
        loaded: The pretrained model, taken over.
        config: Of the run.
        seed: This run's, if not the configuration's.
    """
    lm = loaded.model
    layers: list[nn.Module] = list(lm.encoder.layers)
    torch.manual_seed(rng.key(config.seed if seed is None else seed, "head") >> 1)
    model = task.head(lm)
    assert isinstance(model, Classifier)
    pooler = {name: tensor for name, tensor in loaded.extra_tensors.items() if name in model.state_dict()}
    model.load_state_dict(pooler, strict=False)
    if config.reinit_layers:
        fresh = list(MaskedLM(lm.config).encoder.layers)
        for old, new in zip(layers[-config.reinit_layers :], fresh[-config.reinit_layers :], strict=True):
            old.load_state_dict(new.state_dict())
    freeze(lm, config.freeze_layers)
    return model


def fit(
    folder: Path,
    task: Task[R, G],
    model: Classifier,
    *,
    train: Sequence[R],
    dev: Sequence[R],
    config: FinetuneConfig,
    seed: int,
    device: Device,
    world: World,
) -> tuple[BestEpoch, TrainResult]:
    """Train in a seed's folder, from its newest checkpoint to the last epoch; return what dev chose, and what the loop has to show.

    Args:
        folder: The seed's folder.
        task: What is learnt.
        model: From `build_model`; a checkpoint's weights replace its own.
        train: The training fold.
        dev: The development fold.
        config: Epochs, sizes and rates.
        seed: This run's.
        device: Where to run.
        world: The ranks.
    """
    batches = FoldBatches([example for record in task.examples(train) for example in record], config.batch, seed)
    steps = batches.per_epoch * config.epochs
    selection = BestOnDev(task.scorer.metric, config.patience)
    trainer = Trainer(
        folder,
        DDPEngine(LossModule(model, TaskObjective(task), device), world, config.optim, steps),
        batches,
        evaluation=DevEvaluation(task, dev, config.batch.tokens),
        selection=selection,
        config=LoopConfig(
            steps=steps,
            seed=seed,
            guard=config.guard,
            log_every=config.log_every,
            eval_every=batches.per_epoch,
            save_every=batches.per_epoch,
            keep=1,
            keep_every=0,
            timeout=config.timeout,
        ),
        what=f"biomlm finetune, seed {seed}",
    )
    trainer.resume()
    result = trainer.train()
    return selection.chosen(), result
