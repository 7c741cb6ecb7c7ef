"""What the loop and the protocol need to know of a task; a task's file (`token_classification.py`, …) implements it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from biomlm.finetune.metrics.entities import Scorer
from biomlm.finetune.tasks.examples import Example
from biomlm.model.encoder import MaskedLM


class Record(Protocol):
    """What every record has."""

    @property
    def id(self) -> str:
        """Its name within the data set."""

    @property
    def line(self) -> int:
        """Where it stands in its file, from 1; 0 where a file has no lines."""


R = TypeVar("R", bound=Record)
G = TypeVar("G")
Text = str | Sequence[str]  # running text, or words that are cut already
NO_TARGET = -100  # the target where only another fold than the training one has the label; it never enters a loss


class Task(Protocol[R, G]):
    """A task with records R, whose gold and predictions are G."""

    @property
    def max_length(self) -> int:
        """Tokens in a window, special ones included."""

    @property
    def overlap(self) -> int:
        """Tokens that windows share."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The head's outputs."""

    @property
    def scorer(self) -> Scorer[G]:
        """Its metric."""

    def examples(self, records: Sequence[R]) -> list[list[Example]]:
        """Build for each record what the model reads for it, in order."""

    def head(self, lm: MaskedLM) -> nn.Module:
        """Build the model: `forward(packed, positions_m)` → outputs [m, …]."""

    def loss(self, outputs_mk: Tensor, targets_m: Tensor) -> Tensor:
        """Compute the summed loss of all labelled places."""

    def gold(self, record: R) -> G:
        """Return the record's annotation."""

    def decode(self, outputs_mk: Tensor) -> G:
        """Decode a record's prediction from the outputs at all its labelled places, in order."""

    def units(self, records: Sequence[R], values: Sequence[G]) -> Sequence[G]:
        """Return what is scored: the values of the records, or of the documents that records are sentences of."""

    def json_fields(self, record: R, labels: G) -> Mapping[str, Any]:
        """Return a record's gold or prediction as JSON, without its text."""

    def unlabelled(self, name: str, texts: Sequence[Text], line: int) -> R:
        """Make a record to predict: a text, a pair, or a question and its choices."""

    def counts(self, records: Sequence[R]) -> dict[str, int]:
        """Count what a fold holds, for the summary."""


def count_unseen(labels: Iterable[str], unseen: Sequence[str]) -> dict[str, int]:
    """Count the gold labels of a fold that training lacks, for `Task.counts`; nothing where there are none."""
    number = sum(label in unseen for label in labels)
    return {"of labels unseen in training": number} if number else {}
