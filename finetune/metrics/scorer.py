"""Scores as functions of sums over records, so that the bootstrap resamples sums and never scores a text twice.

A scorer turns gold and prediction of each record into a row of counts; a score is computed from the rows' sum. A ratio with nothing
below the line is 0, as in conlleval and seqeval.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
G_contra = TypeVar("G_contra", contravariant=True)


class Scorer(Protocol[G_contra]):
    """What the protocol, the bootstrap and the comparison need to know of a metric."""

    @property
    def metric(self) -> str:
        """The main score's name: it selects the epoch and heads the report."""

    def sums(self, gold: Sequence[G_contra], predicted: Sequence[G_contra]) -> F64:
        """Count for each record: [records, …]."""

    def value(self, sums: F64) -> F64:
        """Compute the main score, from 0 to 1, of summed rows; leading dimensions are kept: [b, …] → [b]."""

    def report(self, sums: F64) -> dict[str, Any]:
        """Return all scores of the sum of all rows, as JSON."""


def ratio(above: F64, below: F64) -> F64:
    """Divide; 0 where nothing is below the line."""
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=np.greater(below, 0))


def precision_recall_f1(counts: F64) -> dict[str, F64]:
    """Compute the scores of [..., (correct, predicted, gold)]."""
    correct, predicted, gold = counts[..., 0], counts[..., 1], counts[..., 2]
    return {
        "precision": ratio(correct, predicted),
        "recall": ratio(correct, gold),
        "f1": ratio(2 * correct, predicted + gold),
    }


def counted(counts: F64) -> dict[str, float]:
    """Return scores and counts of one row (correct, predicted, gold), as JSON."""
    scores = {name: float(value) for name, value in precision_recall_f1(counts).items()}
    return scores | {name: int(n) for name, n in zip(("correct", "predicted", "gold"), counts, strict=True)}


def missed(labels: Sequence[str], unseen: Sequence[str], counts: F64) -> dict[str, int]:
    """Count the gold labels that no model could predict, as training lacks them; counts are [labels, (correct, predicted, gold)]."""
    return {"unseen": sum(int(counts[labels.index(label), 2]) for label in unseen)} if unseen else {}
