"""What the loop is trained on: the micro-batches of every step, as functions of its number."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from biomlm.training.objective import MicroBatch

B_co = TypeVar("B_co", bound=MicroBatch, covariant=True)
Name = tuple[int, ...]


class NamedBatches(Protocol[B_co]):
    """The micro-batches of any step, made at any time by any process."""

    def names(self, step: int) -> Sequence[Name]:
        """Name the micro-batches of an optimiser step, counted from 0."""

    def make(self, name: Name) -> B_co | None:
        """Make one; None for an empty one."""


class Batches(NamedBatches[B_co], Protocol[B_co]):
    """All that a run reads, and its place in it."""

    def work(self, steps: int) -> float:
        """Estimate the tokens that the first steps are expected to read."""

    def sizes(self, step: int) -> str:
        """Say in words what the steps around this one read; it is logged where it changes."""

    def title(self, name: Name) -> str:
        """Name a micro-batch for users."""

    def smaller(self, step: int, fitting: int) -> str:
        """Advise which options give micro-batches that fit into memory, of about so many tokens; 0 if that is not known."""

    def place(self, step: int) -> dict[str, Any]:
        """Return the place in the data after so many steps, as a checkpoint holds it."""

    def resume(self, step: int, place: Mapping[str, Any]) -> None:
        """Go on after `step` steps from a place that a checkpoint holds."""

    def step_over(self, step: int, steps: int) -> None:
        """Leave out, from `step` on, the micro-batches that were read in the following `steps` steps."""
