"""The rules by which a run is evaluated, ends, and keeps some of its weights."""

from collections.abc import Mapping
from typing import Any, Protocol

from biomlm.core.checkpoint import Groups
from biomlm.model.encoder import EncoderModel
from biomlm.training.distributed.engine import Engine


class Evaluation(Protocol):
    """What is computed of the model between steps."""

    ceiling: (
        float | None
    )  # the loss that a run which was below it must not come back above; None where that says nothing

    def __call__(self, engine: Engine, step: int) -> dict[str, Any]:
        """Evaluate after so many steps, on all ranks at once; the numbers are written into `metrics.jsonl`."""

    def objection(self) -> str:
        """Say why a run with the last evaluation's figures must not be called done, or return an empty string."""


class Selection:
    """Which weights of a run are taken, and when it ends: here those after its last step; a subclass has another rule."""

    evaluated: int | None = None  # the step of the last evaluation

    @property
    def finished(self) -> bool:
        """Whether the run ends here, before its last step."""
        return False

    def after_step(self, loss: float) -> None:
        """Take note of a step that moved the weights."""

    def after_evaluation(self, step: int, figures: Mapping[str, Any], model: EncoderModel) -> None:  # noqa: ARG002
        """Take note of an evaluation, and of the weights that it is of."""
        self.evaluated = step

    def tensors(self) -> Groups:
        """Return the groups of tensors that a checkpoint holds of it."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it beside the tensors."""
        return {}

    def load(self, groups: Groups, state: Mapping[str, Any], step: int) -> None:  # noqa: ARG002
        """Take over what a checkpoint holds after `step` steps; here no evaluation's figures, so the last one is done again."""
        self.evaluated = None
