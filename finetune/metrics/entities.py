"""Scores as functions of sums over records, so that the bootstrap resamples sums and never scores a text twice.

A scorer turns gold and prediction of each record into a row of counts; a score is computed from the rows' sum. A ratio with nothing
below the line is 0, as in conlleval and seqeval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from biomlm.finetune.data.iob_tags import Span

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


@dataclass(frozen=True)
class EntityScorer:
    """Strict entity F1: an entity is right if its first and last word and its type are. Equal to conlleval and to seqeval's default.

    Args:
        types: Entity types; rows of counts are [records, types, (correct, predicted, gold)].
        unseen: Those of them that training lacks.
    """

    types: tuple[str, ...]
    metric: str = "f1"
    unseen: tuple[str, ...] = ()

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
        """Compute micro F1 over the types."""
        return precision_recall_f1(sums.sum(-2))["f1"]

    def report(self, sums: F64) -> dict[str, Any]:
        """Return micro scores and those of each type, with their counts."""
        return {
            **counted(sums.sum(0)),
            **missed(self.types, self.unseen, sums),
            "types": {kind: counted(row) for kind, row in zip(self.types, sums, strict=True)},
        }


@dataclass(frozen=True)
class TokenScorer:
    """Macro F1 over types of words, as BLURB scores PICO: `O` is no type.

    Args:
        types: Types; rows of counts are [records, types, (correct, predicted, gold)] in words.
        unseen: Those of them that training lacks.
    """

    types: tuple[str, ...]
    metric: str = "macro_f1"
    unseen: tuple[str, ...] = ()

    def sums(self, gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> F64:
        """See `Scorer`; the type of each word of a record, empty for `O`."""
        rows = [self._counts(truth, guess) for truth, guess in zip(gold, predicted, strict=True)]
        return np.array(rows).reshape(len(rows), len(self.types), 3)

    def _counts(self, gold: Sequence[str], predicted: Sequence[str]) -> F64:
        """Count for one record: [types, 3]."""
        t_wk, g_wk = (
            np.array(w, dtype=str)[:, None] == np.array(self.types) for w in (gold, predicted)
        )  # [words, types]
        return np.stack([(t_wk & g_wk).sum(0), g_wk.sum(0), t_wk.sum(0)], axis=1).astype(np.float64)

    def value(self, sums: F64) -> F64:
        """Compute the mean of the types' F1."""
        return np.asarray(precision_recall_f1(sums)["f1"].mean(-1))

    def report(self, sums: F64) -> dict[str, Any]:
        """Return macro F1, micro scores and those of each type."""
        types = {kind: counted(row) for kind, row in zip(self.types, sums, strict=True)}
        unseen = missed(self.types, self.unseen, sums)
        return {"macro_f1": float(self.value(sums)), **counted(sums.sum(0)), **unseen, "types": types}


def counted(counts: F64) -> dict[str, float]:
    """Return scores and counts of one row (correct, predicted, gold), as JSON."""
    scores = {name: float(value) for name, value in precision_recall_f1(counts).items()}
    return scores | {name: int(n) for name, n in zip(("correct", "predicted", "gold"), counts, strict=True)}


def missed(labels: Sequence[str], unseen: Sequence[str], counts: F64) -> dict[str, int]:
    """Count the gold labels that no model could predict, as training lacks them; counts are [labels, (correct, predicted, gold)]."""
    return {"unseen": sum(int(counts[labels.index(label), 2]) for label in unseen)} if unseen else {}
