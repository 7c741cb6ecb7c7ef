"""What keeps a run of days from being lost to one bad batch.

A step whose loss or gradient is not finite, or whose gradient is far larger than usual, does not move the weights (DeepSpeed's ZeRO
clips a large one and moves them: docs/engines.md). After several such steps in a row the weights themselves are suspected: the run
goes back to the last checkpoint before them and steps over their batches. All decisions follow from numbers that every rank has alike,
and from state that checkpoints hold, so a resumed run decides alike.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from biomlm.training.config import GuardConfig

MEMORY = 0.99  # weight of the past in the running mean of gradient norms
SETTLED = 100  # steps before a norm is called large


@dataclass
class Guard:
    """Judges steps.

    Args:
        config: Limits.
        mean: Running mean of gradient norms, each counted up to the limit so that a lasting change is accepted in the end.
        seen: Steps in that mean.
        streak: Bad steps in a row up to now.
        skipped: Bad steps in all, those undone by going back included.
        overflows: Steps skipped while fp16's loss scale was sought.
        rewinds: How often the run went back.
        shift: Batches that were stepped over by going back, in steps.
        problem: What is wrong with the step that was judged last; empty if nothing is.
    """

    config: GuardConfig
    mean: float = 0.0
    seen: int = 0
    streak: int = 0
    skipped: int = 0
    overflows: int = 0
    rewinds: int = 0
    shift: int = 0
    problem: str = field(default="", init=False)

    def accepts(self, loss: float, norm: float) -> bool:
        """Judge a step: whether it may move the weights, and else leave word of what is wrong in `problem`.

        Args:
            loss: Its mean over all ranks.
            norm: Of its gradient over all ranks, before clipping.
        """
        self.problem = self._wrong(loss, norm)
        self.streak = self.streak + 1 if self.problem else 0
        self.skipped += bool(self.problem)
        if math.isfinite(loss) and math.isfinite(norm):
            self.seen += 1
            self.mean += max(1 / self.seen, 1 - MEMORY) * (min(norm, self._limit()) - self.mean)
        return not self.problem

    def overflowed(self, scale: float) -> None:
        """Count a step whose gradient left fp16's range, which lowers the loss scale and is no bad step."""
        self.overflows += 1
        self.problem = f"the gradient overflows, the loss scale becomes {scale:g}"

    def _wrong(self, loss: float, norm: float) -> str:
        if not math.isfinite(loss):
            return "the loss is not finite"
        if not math.isfinite(norm):
            return "the gradient is not finite"
        return f"the gradient's norm is {norm:.3g}, usually {self.mean:.3g}" if norm > self._limit() else ""

    def _limit(self) -> float:
        return self.config.spike * self.mean if self.config.spike and self.seen >= SETTLED else math.inf

    @property
    def must_go_back(self) -> bool:
        """Whether as many steps in a row were bad as are put up with."""
        return self.streak >= self.config.patience

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return {name: value for name, value in asdict(self).items() if name not in ("config", "problem")}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint holds."""
        for name, value in state.items():
            setattr(self, name, value)

    def go_back(self, then: dict[str, Any], steps: int) -> None:
        """Take over the state of the checkpoint that the run went back to, but not what it has counted since."""
        counted = {"skipped": self.skipped, "overflows": self.overflows, "rewinds": self.rewinds + 1}
        self.load({**then, **counted, "streak": 0, "shift": self.shift + steps})
