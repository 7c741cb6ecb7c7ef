"""What reading, training, scoring, predicting and comparing need to know of a task; a task's file implements it all.

The files are `token_classification.py` and `text_classification.py`; `registry.py` names their classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor, nn

from biomlm.convert.load import Loaded
from biomlm.finetune.comparison.errors import ErrorAnalysis
from biomlm.finetune.config import FinetuneConfig
from biomlm.finetune.data.dataset import DataSet
from biomlm.finetune.data.labelling import Labelling
from biomlm.finetune.data.unlabelled import Text
from biomlm.finetune.metrics.scorer import Scorer
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
NO_TARGET = -100  # the target where only another fold than the training one has the label; it never enters a loss


class Task(Protocol[R, G]):
    """A task with records R, whose gold and predictions are G: a frozen dataclass of what the training fold and the model decide."""

    labelling: ClassVar[Labelling]  # what its records carry
    error_analysis: ClassVar[ErrorAnalysis | None]  # how `compare` sorts them; None where there is no right or wrong
    formats: ClassVar[tuple[str, ...]]  # what `predict --to` may write
    head_facts: ClassVar[Mapping[str, Any]]  # what `convert` must know of the head (see its `SourceCheckpoint`)

    @classmethod
    def read(cls, folder: Path, config: FinetuneConfig) -> DataSet:
        """Read the folds of a data set's folder."""

    @classmethod
    def check(cls, data: DataSet, config: FinetuneConfig) -> None:
        """Refuse records that the task cannot take."""

    @classmethod
    def learn_labels(cls, train: Sequence[R], config: FinetuneConfig) -> tuple[str, ...]:
        """List the head's outputs, from the training fold."""

    @classmethod
    def learn_fields(
        cls, train: Sequence[R], labels: tuple[str, ...], loaded: Loaded, config: FinetuneConfig
    ) -> dict[str, Any]:
        """Return what else the task is made of, by the names of its fields."""

    @classmethod
    def from_facts(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return fields as the task holds them from what a model folder says."""

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
        """Its metric, which also selects the best epoch."""

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

    @property
    def caveat(self) -> str:
        """What a user must know before the predictions are taken; empty for nothing."""

    @property
    def word_rule(self) -> str:
        """How a text is cut into words, for the summary; empty where it is not."""

    def unlabelled(self, name: str, texts: Sequence[Text], line: int) -> R:
        """Make a record to predict: a text, a pair, or a question and its choices."""

    def counts(self, records: Sequence[R]) -> dict[str, int]:
        """Count what a fold holds, for the summary."""


def count_unseen(labels: Iterable[str], unseen: Sequence[str]) -> dict[str, int]:
    """Count the gold labels of a fold that training lacks, for `Task.counts`; nothing where there are none."""
    number = sum(label in unseen for label in labels)
    return {"of labels unseen in training": number} if number else {}
