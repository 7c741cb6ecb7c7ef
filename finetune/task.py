"""What the loop and the protocol need to know of a task; a task's file (`ner.py`, …) implements it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from biolm.finetune.examples import Example
from biolm.finetune.scorers import Scorer
from biolm.model.encoder import MaskedLM

R = TypeVar("R")
G = TypeVar("G")
R_contra = TypeVar("R_contra", contravariant=True)


class Task(Protocol[R_contra, G]):
    """A task with records R, whose gold and predictions are G."""

    @property
    def name(self) -> str:
        """As on the command line."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The head's outputs."""

    @property
    def scorer(self) -> Scorer[G]:
        """Its metric."""

    def examples(self, records: Sequence[R_contra]) -> list[list[Example]]:
        """For each record what the model reads for it, in order."""

    def head(self, lm: MaskedLM) -> nn.Module:
        """The model: `forward(packed, positions_m)` → outputs [m, …]."""

    def loss(self, outputs_mk: Tensor, targets_m: Tensor) -> Tensor:
        """The summed loss of all labelled places."""

    def gold(self, record: R_contra) -> G:
        """What the record's annotators say."""

    def decode(self, record: R_contra, outputs_mk: Tensor) -> G:
        """A record's prediction from the outputs at all its labelled places, in order."""

    def written(self, record: R_contra, predicted: G) -> Mapping[str, Any]:
        """A record's line in a file of predictions, without its text."""

    def counts(self, records: Sequence[R_contra]) -> dict[str, int]:
        """What a fold holds, for the summary."""
