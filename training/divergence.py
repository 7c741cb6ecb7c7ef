"""Notice that a run unlearns, from what it logs: its training loss, its gradient's norm and its held-out loss.

None of these rules looks at a single step, which is the guard's (`anomaly_guard`). They are relative to the run itself, so they fit any
objective: a run has diverged if the running mean of its loss has lost half of what it had gained (or a quarter of the first loss, if it
had gained less), if its held-out loss has come back above the unigram entropy that it was clearly below, or if the running mean of its
gradient's norm has drifted to `guard.spike` times its lowest. All figures are alike on every rank, and the state is in checkpoints, so a
resumed run decides alike.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from biomlm.core.errors import DataError
from biomlm.training.config import GuardConfig

MEMORY = 0.99  # weight of the past in running means
SETTLED = 100  # steps before a running mean says anything
LOST = 0.5  # share of what was gained
RISE = 0.25  # share of the first loss
LEARNT = (
    0.95  # a held-out loss below this share of the unigram entropy is of a model that has learnt more than frequencies
)
HALF = 0.5


@dataclass
class Trend:
    """One figure's running mean.

    Args:
        seen: Values in it.
        first: The first value.
        mean: The mean now.
        lowest: The lowest mean since it has settled.
        step: When that was.
    """

    seen: int = 0
    first: float = 0.0
    mean: float = 0.0
    lowest: float = 0.0
    step: int = 0

    def add(self, step: int, value: float, *, settled: int = SETTLED, memory: float = MEMORY) -> None:
        """Take in the value of a step."""
        self.first = value if not self.seen else self.first
        self.seen += 1
        self.mean += max(1 / self.seen, 1 - memory) * (value - self.mean)
        if self.seen <= max(settled, 1) or self.mean < self.lowest:
            self.lowest, self.step = self.mean, step

    @property
    def limit(self) -> float:
        """The value above which what was learnt is being lost."""
        return self.lowest + max(LOST * (self.first - self.lowest), RISE * abs(self.first))


@dataclass
class Divergence:
    """Judges a run.

    Args:
        spike: How many times its lowest running mean the gradient's norm may come to; 0 for any number.
        loss: The training loss.
        norm: The gradient's norm before clipping.
        held_out: The held-out loss.
        problem: What is wrong; empty if nothing is.
        before: The step that the run was best at, when it had a problem.
    """

    spike: float
    loss: Trend = field(default_factory=Trend)
    norm: Trend = field(default_factory=Trend)
    held_out: Trend = field(default_factory=Trend)
    problem: str = field(default="", init=False)
    before: int = field(default=0, init=False)

    def after_step(self, step: int, loss: float, norm: float) -> None:
        """Judge a step that moved the weights."""
        self.loss.add(step, loss)
        self.norm.add(step, norm)
        if self.loss.seen > SETTLED and self.loss.mean > self.loss.limit:
            self._note(
                self.loss,
                f"the mean of the training loss is {self.loss.mean:.3g}, was {self.loss.lowest:.3g} at step {self.loss.step}",
            )
        drifted = self.spike and self.norm.mean > max(self.spike * self.norm.lowest, self.norm.first)
        if self.norm.seen > SETTLED and drifted:
            self._note(
                self.norm,
                f"the mean of the gradient's norm is {self.norm.mean:.3g}, was {self.norm.lowest:.3g} at step {self.norm.step}",
            )

    def after_evaluation(self, step: int, loss: float | None, ceiling: float | None) -> None:
        """Judge an evaluation.

        Args:
            step: Steps done.
            loss: Held-out, in nats; None if there is none.
            ceiling: The loss of who knows only how frequent each token is; None where that says nothing.
        """
        if loss is None or ceiling is None:
            return
        best, at = self.held_out.lowest, self.held_out.step
        if self.held_out.seen and best < LEARNT * ceiling and loss > ceiling:
            self._note(
                self.held_out,
                f"the held-out loss is {loss:.3g}, above the {ceiling:.3g} of bare frequencies, was {best:.3g} at step {at}",
            )
        self.held_out.add(step, loss, settled=0, memory=0.0)

    def _note(self, trend: Trend, problem: str) -> None:
        self.problem = self.problem or problem
        self.before = min(self.before or trend.step, trend.step)

    def way_back(self, run: Path, step: int, config: GuardConfig) -> float:
        """Return what the learning rate is multiplied by when the run goes back.

        Raises:
            DataError: It is to stop.
        """
        if config.on_divergence == "stop":
            raise DataError(
                f"the run diverges at step {step}: {self.problem}",
                file=run,
                remedy="The same command with --guard.on_divergence halve goes back and on at half the learning rate, rewind at the same.",
            )
        return HALF if config.on_divergence == "halve" else 1.0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return {name: asdict(getattr(self, name)) for name in ("loss", "norm", "held_out")}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint holds; those of earlier versions hold nothing."""
        self.problem, self.before = "", 0
        for name in ("loss", "norm", "held_out"):
            setattr(self, name, Trend(**state.get(name, {})))
