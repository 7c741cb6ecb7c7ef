"""Scores as functions of sums over records, so that the bootstrap resamples sums and never scores a text twice.

A scorer turns gold and prediction of each record into a row of counts; a score is computed from the rows' sum. A ratio with nothing
below the line is 0, as in conlleval and seqeval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from biolm.finetune.spans import Span

F64 = npt.NDArray[np.float64]
G_contra = TypeVar("G_contra", contravariant=True)


class Scorer(Protocol[G_contra]):
    """What the protocol, the bootstrap and the comparison need to know of a metric."""

    @property
    def metric(self) -> str:
        """The main score's name: it selects the epoch and heads the report."""

    def sums(self, gold: Sequence[G_contra], predicted: Sequence[G_contra]) -> F64:
        """One row of counts a record: [records, …]."""

    def value(self, sums: F64) -> F64:
        """The main score, from 0 to 1, of summed rows; leading dimensions are kept: [b, …] → [b]."""

    def report(self, sums: F64) -> dict[str, Any]:
        """All scores of the sum of all rows, as JSON."""


def ratio(above: F64, below: F64) -> F64:
    """Quotients; 0 where nothing is below the line."""
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=np.greater(below, 0))


def precision_recall_f1(counts: F64) -> dict[str, F64]:
    """Scores from [..., (correct, predicted, gold)]."""
    correct, predicted, gold = counts[..., 0], counts[..., 1], counts[..., 2]
    return {
        "precision": ratio(correct, predicted),
        "recall": ratio(correct, gold),
        "f1": ratio(2 * correct, predicted + gold),
    }


@dataclass(frozen=True)
class EntityScorer:
    """Strict entity F1: an entity is right if its first and last word and its type are. Equal to conlleval and to seqeval's default.

    Args:
        types: Entity types; rows of counts are [records, types, (correct, predicted, gold)].
    """

    types: tuple[str, ...]
    metric: str = "f1"

    def sums(self, gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> F64:
        """See `Scorer`; spans of one record, in words."""
        index = {kind: i for i, kind in enumerate(self.types)}
        counts = np.zeros((len(gold), len(self.types), 3))
        for row, truth, guess in zip(counts, gold, predicted, strict=True):
            for column, spans in enumerate((set(truth) & set(guess), guess, truth)):
                for span in spans:
                    row[index[span.type], column] += 1
        return counts

    def value(self, sums: F64) -> F64:
        """Micro F1 over the types."""
        return precision_recall_f1(sums.sum(-2))["f1"]

    def report(self, sums: F64) -> dict[str, Any]:
        """Micro scores and those of each type, with their counts."""
        return {
            **counted(sums.sum(0)),
            "types": {kind: counted(row) for kind, row in zip(self.types, sums, strict=True)},
        }


def counted(counts: F64) -> dict[str, float]:
    """Scores and counts of one row (correct, predicted, gold), as JSON."""
    scores = {name: float(value) for name, value in precision_recall_f1(counts).items()}
    return scores | {name: int(n) for name, n in zip(("correct", "predicted", "gold"), counts, strict=True)}
