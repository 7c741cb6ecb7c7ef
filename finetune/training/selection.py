"""The rule of fine-tuning: a development score after every epoch, and the weights of the best one.

Which score that is each task decides, by its `scorer` in `finetune/tasks/` (a table of them is in docs/finetune.md).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from torch import Tensor

from biomlm.core.checkpoint import Groups
from biomlm.finetune.metrics.scorer import F64
from biomlm.finetune.tasks.base import G, R, Task
from biomlm.finetune.training.inference import outputs
from biomlm.model.encoder import EncoderModel
from biomlm.training.distributed.engine import Engine
from biomlm.training.selection import Selection


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


class BestOnDev(Selection):
    """Keeps the weights of the epoch with the best score, of equal ones the first; ends after `patience` epochs without a better one.

    Args:
        metric: The main score's name.
        patience: 0 never ends early.
    """

    def __init__(self, metric: str, patience: int):
        self.metric, self.patience = metric, patience
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.loss, self.steps = 0.0, 0  # of the steps of this epoch that moved the weights
        self.seconds, self.started = 0.0, time.monotonic()  # of this epoch before the process went on, and when it did

    @property
    def best_epoch(self) -> int:
        """The epoch of the best score, from 1."""
        values = [entry["dev"][self.metric] for entry in self.history]
        return values.index(max(values)) + 1

    @property
    def finished(self) -> bool:
        """See `Selection`."""
        done = len(self.history)
        return 0 < self.patience < done and done - self.best_epoch >= self.patience

    def chosen(self) -> BestEpoch:
        """Return what is taken of the run."""
        value = self.history[self.best_epoch - 1]["dev"][self.metric]
        return BestEpoch(self.best_epoch, value, self.best, self.history)

    def after_step(self, loss: float) -> None:
        """See `Selection.after_step`."""
        self.loss += loss
        self.steps += 1

    def after_evaluation(self, step: int, figures: Mapping[str, Any], model: EncoderModel) -> None:
        """See `Selection.after_evaluation`: an epoch has ended."""
        loss = self.loss / self.steps if self.steps else None
        entry = {"epoch": len(self.history) + 1, "loss": loss, "dev": figures, "seconds": self._seconds()}
        self.history.append(entry)
        if self.best_epoch == len(self.history):
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        self._begin(step)

    def _seconds(self) -> float:
        return self.seconds + time.monotonic() - self.started

    def _begin(self, step: int) -> None:
        """Begin an epoch after `step` steps."""
        self.evaluated, self.loss, self.steps = step, 0.0, 0
        self.seconds, self.started = 0.0, time.monotonic()

    def tensors(self) -> Groups:
        """See `Selection.tensors`."""
        return {"best": self.best}

    def state(self) -> dict[str, Any]:
        """See `Selection.state`."""
        epoch = {"evaluated": self.evaluated, "loss": self.loss, "steps": self.steps, "seconds": self._seconds()}
        return {"history": self.history, "epoch": epoch}

    def load(self, groups: Groups, state: Mapping[str, Any], step: int) -> None:
        """See `Selection.load`; earlier versions wrote checkpoints at the ends of epochs only."""
        self.history, self.best = list(state["history"]), dict(groups["best"])
        self._begin(step)
        for name, value in state.get("epoch", {}).items():
            setattr(self, name, value)


class DevEvaluation(Generic[R, G]):
    """Scores the development fold (see `training.selection.Evaluation`).

    Args:
        task: What is learnt.
        dev: The development fold.
        tokens: Most tokens in a forward pass.
    """

    ceiling: float | None = None  # a fold's score is no loss

    def __init__(self, task: Task[R, G], dev: Sequence[R], tokens: int):
        self.task, self.dev, self.tokens = task, dev, tokens
        self.examples = task.examples(dev)

    def __call__(self, engine: Engine, step: int) -> dict[str, Any]:  # noqa: ARG002 always the same fold
        """See `Evaluation`."""
        rows = outputs(engine.model, self.examples, self.tokens, engine.device, world=engine.world)
        return self.task.scorer.report(score_rows(self.task, self.dev, [self.task.decode(row) for row in rows]).sum(0))

    def objection(self) -> str:
        """See `Evaluation`: a bad score is a score."""
        return ""


def score_rows(task: Task[R, G], records: Sequence[R], predicted: Sequence[G]) -> F64:
    """Compute the scorer's row of counts for every record or document."""
    gold = [task.gold(record) for record in records]
    return task.scorer.sums(task.units(records, gold), task.units(records, predicted))
