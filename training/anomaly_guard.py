"""What keeps a run of days from being lost to one bad batch.

A step whose loss or gradient is not finite, or whose gradient is far larger than usual, does not move the weights. After several such
steps in a row the weights themselves are suspected: the run goes back to the last checkpoint before them and steps over their
batches. All decisions follow from numbers that every rank has alike, and from state that checkpoints hold, so a resumed run decides alike.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from biomlm.training.config import GuardConfig
from biomlm.training.distributed.loss_scale import LossScale

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
    """

    config: GuardConfig
    mean: float = 0.0
    seen: int = 0
    streak: int = 0
    skipped: int = 0
    overflows: int = 0
    rewinds: int = 0
    shift: int = 0

    def judge(self, loss: float, norm: float, scale: LossScale | None) -> str:
        """Say what is wrong with a step, or return an empty string.

        Args:
            loss: Its mean over all ranks.
            norm: Of its gradient over all ranks, before clipping.
            scale: What the loss was multiplied by, if the precision needs that: a gradient that overflows lowers it, and is no bad step.
        """
        if scale is not None and math.isfinite(loss) and not math.isfinite(norm):
            self.overflows += 1
            scale.overflowed()
            return f"the gradient overflows, the loss scale becomes {scale.factor:g}"
        wrong = self._wrong(loss, norm)
        self.streak = self.streak + 1 if wrong else 0
        self.skipped += bool(wrong)
        if scale is not None and not wrong:
            scale.good()
        if math.isfinite(loss) and math.isfinite(norm):
            self.seen += 1
            self.mean += max(1 / self.seen, 1 - MEMORY) * (min(norm, self._limit()) - self.mean)
        return wrong

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
        return {name: value for name, value in asdict(self).items() if name != "config"}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint holds."""
        for name, value in state.items():
            setattr(self, name, value)

    def go_back(self, then: dict[str, Any], steps: int) -> None:
        """Take over the state of the checkpoint that the run went back to, but not what it has counted since."""
        counted = {"skipped": self.skipped, "overflows": self.overflows, "rewinds": self.rewinds + 1}
        self.load({**then, **counted, "streak": 0, "shift": self.shift + steps})
