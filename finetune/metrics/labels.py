"""Scores of whole texts: accuracy, F1 over labels, Pearson's correlation; all as functions of sums (see `finetune.metrics.entities`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from biomlm.finetune.metrics.scorer import F64, counted, missed, precision_recall_f1, ratio

Labels = frozenset[str]


@dataclass(frozen=True)
class LabelScorer:
    """One or many labels a record; rows of counts are [records, labels, (correct, predicted, gold)].

    Args:
        labels: All of them.
        metric: `accuracy`; or `f1`, micro F1 over the labels but for the negative one, as for relations and for many labels.
        negative: The label that says there is nothing (`false`, `no relation`); it is left out of F1.
        unseen: Those of the labels that training lacks.
    """

    labels: tuple[str, ...]
    metric: str
    negative: str = ""
    unseen: tuple[str, ...] = ()

    def sums(self, gold: Sequence[Labels], predicted: Sequence[Labels]) -> F64:
        """See `Scorer`."""
        index = {label: i for i, label in enumerate(self.labels)}
        counts = np.zeros((len(gold), len(self.labels), 3))
        for row, truth, guess in zip(counts, gold, predicted, strict=True):
            for column, labels in enumerate((truth & guess, guess, truth)):
                for label in labels:
                    row[index[label], column] += 1
        return counts

    def value(self, sums: F64) -> F64:
        """Compute accuracy or micro F1."""
        if self.metric == "accuracy":
            return ratio(sums[..., 0].sum(-1), sums[..., 2].sum(-1))
        return precision_recall_f1(self._scored(sums).sum(-2))["f1"]

    def report(self, sums: F64) -> dict[str, Any]:
        """Return accuracy where every record has one label, micro and macro scores, and those of each label."""
        scored = self._scored(sums)
        accuracy: dict[str, Any] = {"accuracy": float(self.value(sums))} if self.metric == "accuracy" else {}
        return {
            **accuracy,
            **counted(scored.sum(0)),
            **missed(self.labels, self.unseen, sums),
            "macro_f1": float(precision_recall_f1(scored)["f1"].mean()),
            "types": {label: counted(row) for label, row in zip(self.labels, sums, strict=True)},
        }

    def _scored(self, sums: F64) -> F64:
        return sums[..., [i for i, label in enumerate(self.labels) if label != self.negative], :]


@dataclass(frozen=True)
class PearsonScorer:
    """Pearson's correlation; rows are (1, x, y, x², y², xy) of gold x and prediction y."""

    metric: str = "pearson"

    def sums(self, gold: Sequence[float], predicted: Sequence[float]) -> F64:
        """See `Scorer`."""
        x, y = np.asarray(gold, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
        return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def value(self, sums: F64) -> F64:
        """Compute the correlation; 0 where gold or prediction is constant."""
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        below = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
        return ratio(n * xy - x * y, below)

    def report(self, sums: F64) -> dict[str, Any]:
        """Return the correlation and the number of records."""
        return {"pearson": float(self.value(sums)), "gold": int(sums[0])}
