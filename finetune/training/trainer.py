"""The training of one seed: epochs, a development score after each, and the weights of the best one.

The loop never sees the test fold. Order and dropout are functions of (seed, step), and after every epoch all state is written
(`Trainer.checkpoint`), so a killed run ends with the same bits as one that was not.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor, nn

from biomlm.convert.load import Loaded
from biomlm.core import checkpoint, rng
from biomlm.core.checkpoint import Checkpoint
from biomlm.core.errors import CheckpointError, DataError
from biomlm.core.metrics import MetricsWriter
from biomlm.core.progress import progress
from biomlm.finetune.config import FinetuneConfig
from biomlm.finetune.metrics.entities import F64
from biomlm.finetune.tasks.base import G, R, Task
from biomlm.finetune.tasks.examples import Batch, epoch_steps, steps_per_epoch
from biomlm.finetune.training.inference import outputs
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.optim.optimizer import Optimizer, freeze


@dataclass(frozen=True)
class BestEpoch:
    """The epoch that the development fold chose.

    Args:
        epoch: From 1.
        value: Its main development score.
        tensors: The model's state after it.
        history: One entry an epoch: `epoch`, `loss`, `dev`, `seconds`.
    """

    epoch: int
    value: float
    tensors: dict[str, Tensor]
    history: list[dict[str, Any]]


def build_model(task: Task[R, G], loaded: Loaded, config: FinetuneConfig, seed: int | None = None) -> nn.Module:
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
    pooler = {name: tensor for name, tensor in loaded.extra_tensors.items() if name in model.state_dict()}
    model.load_state_dict(pooler, strict=False)
    if config.reinit_layers:
        fresh = list(MaskedLM(lm.config).encoder.layers)
        for old, new in zip(layers[-config.reinit_layers :], fresh[-config.reinit_layers :], strict=True):
            old.load_state_dict(new.state_dict())
    freeze(lm, config.freeze_layers)
    return model


class Trainer(Generic[R, G]):
    """Trains in a seed's folder, from its newest checkpoint to the last epoch.

    Args:
        folder: The seed's folder.
        task: What is learnt.
        model: From `build_model`; a checkpoint's weights replace its own.
        train: The training fold.
        dev: The development fold.
        config: Epochs, sizes and rates.
        seed: This run's.
        device: Where to run.
    """

    def __init__(
        self,
        folder: Path,
        task: Task[R, G],
        model: nn.Module,
        train: Sequence[R],
        dev: Sequence[R],
        config: FinetuneConfig,
        seed: int,
        device: Device,
    ):
        self.folder, self.task, self.model, self.config = folder, task, model.to(device.torch), config
        self.dev, self.seed, self.device = dev, seed, device
        self.examples = [example for record in task.examples(train) for example in record]
        self.dev_examples = task.examples(dev)
        self.per_epoch = steps_per_epoch(self.examples, config.batch)
        layers = len(model.lm.encoder.layers)  # type: ignore[arg-type, union-attr]
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = Optimizer(named, layers, config.optim, self.per_epoch * config.epochs)
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}

    def train(self) -> BestEpoch:
        """Run the epochs that are left."""
        self._resume()
        self.model.train()
        steps = self.per_epoch * self.config.epochs
        with (
            MetricsWriter(self.folder, self.step) as metrics,
            progress(f"biomlm finetune, seed {self.seed}", steps, "steps", self.step) as bar,
        ):
            while not self.finished:
                started = time.monotonic()
                loss = 0.0
                for batches in epoch_steps(self.examples, self.config.batch, self.seed, len(self.history)):
                    step_loss, rate = self._step(batches)
                    loss += step_loss
                    bar.advance(1, note=f"epoch {len(self.history) + 1} loss {step_loss:.3f}")
                    if self.step % self.config.log_every == 0:
                        metrics.write(self.step, "train", {"loss": step_loss, "learning_rate": rate})
                dev = self._evaluate()
                metrics.write(self.step, "valid", {k: v for k, v in dev.items() if isinstance(v, float)})
                self._record_epoch({"loss": loss / self.per_epoch, "dev": dev, "seconds": time.monotonic() - started})
                checkpoint.save(self.folder, self._checkpoint(), keep=1)
        best = self.history[self.best_epoch - 1]
        return BestEpoch(self.best_epoch, best["dev"][self.task.scorer.metric], self.best, self.history)

    @property
    def best_epoch(self) -> int:
        """The epoch of the best development score, from 1; of equal ones the first."""
        values = [entry["dev"][self.task.scorer.metric] for entry in self.history]
        return values.index(max(values)) + 1

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or none of the last `patience` was better than those before."""
        done, patience = len(self.history), self.config.patience
        return done == self.config.epochs or (0 < patience < done and done - self.best_epoch >= patience)

    def _step(self, batches: list[Batch]) -> tuple[float, float]:
        """Take one optimizer step; return its mean loss and the learning rate."""
        torch.manual_seed(rng.key(self.seed, "dropout", self.step) >> 1)
        labelled = sum(len(batch.targets_m) for batch in batches)
        total = 0.0
        for batch in batches:
            on_device = batch.to(self.device.torch)
            with self.device.autocast():
                rows = self.model(on_device.packed, on_device.positions_m)
            loss = self.task.loss(rows, on_device.targets_m) / labelled
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        if not math.isfinite(total):
            raise DataError(
                f"the loss of step {self.step + 1} is not finite", file=self.folder, remedy="Lower --optim.lr."
            )
        norm, rate = self.optimizer.step(self.step)
        if not math.isfinite(norm):  # the weights have gone, but no checkpoint holds them
            raise DataError(
                f"the gradient of step {self.step + 1} is not finite", file=self.folder, remedy="Lower --optim.lr."
            )
        self.step += 1
        return total, rate

    def _evaluate(self) -> dict[str, Any]:
        rows = outputs(self.model, self.dev_examples, self.config.batch.tokens, self.device)
        predicted = [self.task.decode(row) for row in rows]
        return self.task.scorer.report(score_rows(self.task, self.dev, predicted).sum(0))

    def _record_epoch(self, entry: dict[str, Any]) -> None:
        """Record an epoch, and keep its weights if it is the best so far."""
        self.history.append({"epoch": len(self.history) + 1, **entry})
        if self.best_epoch == len(self.history):
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}

    def _checkpoint(self) -> Checkpoint:
        tensors = {"model": self.model.state_dict(), "best": self.best, "optimizer": self.optimizer.tensors()}
        return Checkpoint(self.step, tensors, {"history": self.history})

    def _resume(self) -> None:
        saved = checkpoint.load_latest(self.folder)
        if saved is None:
            return
        try:
            self.model.load_state_dict(dict(saved.tensors["model"]))
        except (RuntimeError, KeyError) as error:
            problem = f"the checkpoint is of another model ({str(error).splitlines()[0]})"
            raise CheckpointError(problem, file=self.folder, remedy="Give another --out.") from None
        self.optimizer.load(saved.tensors["optimizer"], saved.step)
        self.best, self.step = dict(saved.tensors["best"]), saved.step
        self.history = saved.state["history"]


def score_rows(task: Task[R, G], records: Sequence[R], predicted: Sequence[G]) -> F64:
    """Compute the scorer's row of counts for every record or document."""
    gold = [task.gold(record) for record in records]
    return task.scorer.sums(task.units(records, gold), task.units(records, predicted))
