"""Score entities and types of words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from biomlm.finetune.data.iob_tags import Span
from biomlm.finetune.metrics.scorer import F64, counted, missed, precision_recall_f1


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
