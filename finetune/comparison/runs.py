"""Runs side by side on one task: what `compare` computes, and its tables and its page show."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from biomlm.core.manifest import flatten
from biomlm.finetune.comparison.errors import ErrorAnalysis, Line, Mistake
from biomlm.finetune.config import FinetuneConfig
from biomlm.finetune.metrics.scorer import F64
from biomlm.finetune.tasks.registry import TASKS

PLACES = ("model", "data", "out", "log_every", "override")
DECIDING = ("one_type", "groups", "st21pv", "negative", "columns.label")  # of the labels that the files are read with


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        name: Its folder, as given.
        config: Its configuration.
        scores: `scores.json`.
        rows: Each seed's counts of every test record.
        weights: Hash of the model that it began with.
        data: Hashes of the data set's files.
        histories: Each seed's epochs.
        lines: Each seed's predictions.
    """

    name: str
    config: FinetuneConfig
    scores: dict[str, Any]
    rows: list[F64]
    weights: str
    data: dict[str, str]
    histories: list[list[dict[str, Any]]]
    lines: list[list[Line]]

    @property
    def model(self) -> str:
        """The name of the model that it began with."""
        return Path(self.config.model).name or self.config.model

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Its options by dotted names, except places and the name of what is compared; and the precision that it took."""
        options = flatten(asdict(self.config))
        return {k: v for k, v in options.items() if k not in PLACES} | {"precision": self.scores["precision"]}

    @property
    def error_analysis(self) -> ErrorAnalysis | None:
        """How its task's mistakes are sorted; None for numbers."""
        return TASKS[self.config.task].task.error_analysis  # type: ignore[no-any-return]

    @cached_property
    def mistakes(self) -> dict[str, dict[str, float]]:
        """How many of each kind, by type of entity or by label; empty for numbers."""
        return self.error_analysis.counts(self.lines) if self.error_analysis else {}


@dataclass(frozen=True)
class Comparison:
    """Runs of one task on the same data.

    Args:
        metric: The main score.
        runs: In the order given; the others are compared with the first.
        compared: For each run its score and difference (`compare.against`).
        words: Mistakes that most make, with the words before, of and after each.
    """

    metric: str
    runs: list[Run]
    compared: list[dict[str, Any]]
    words: Sequence[tuple[Mistake, tuple[str, str, str]]] = ()

    @property
    def name(self) -> str:
        """The data set, the task and the options that decide about its labels."""
        run = self.runs[0]
        options = [f"{k} {run.settings[k]}" for k in DECIDING if run.settings[k] not in ("", False, "label")]
        return f"{Path(run.config.data).name} ({', '.join([run.config.task, *options])})"

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON; of mistakes the words only if they were asked for."""
        hardest = [
            {
                "id": self.runs[0].lines[0][m.record]["id"],
                "gold": m.gold,
                "said": m.predicted,
                "share": m.share,
                "words": words,
            }
            for m, words in self.words
        ]
        return {
            "task": self.name,
            "metric": self.metric,
            "against": self.runs[0].name,
            "runs": self.compared,
            "hardest": hardest,
        }


def labels(comparisons: Sequence[Comparison]) -> dict[str, str]:
    """Name each run's row: by its model, or by its folder where two runs of one task or two models share that."""
    weights = {(run.model, run.weights) for comparison in comparisons for run in comparison.runs}
    shared = len({name for name, _ in weights}) < len(weights)
    for comparison in comparisons:
        if shared or len({run.model for run in comparison.runs}) < len(comparison.runs):
            return {run.name: run.name for other in comparisons for run in other.runs}
    return {run.name: run.model for comparison in comparisons for run in comparison.runs}


def matrix(comparisons: Sequence[Comparison]) -> dict[str, list[dict[str, Any] | None]]:
    """Map a row's name to what was compared on each task, None where there is no run."""
    names = labels(comparisons)
    rows = list(dict.fromkeys(names[run.name] for comparison in comparisons for run in comparison.runs))
    cells = [{names[row["run"]]: row for row in comparison.compared} for comparison in comparisons]
    return {name: [row.get(name) for row in cells] for name in rows}


def other_settings(first: Run, other: Run) -> dict[str, list[Any]]:
    """Find the options in which two runs differ: option → the first's value and the other's."""
    keys = [key for key in first.settings if first.settings[key] != other.settings.get(key)]
    return {key: [first.settings[key], other.settings.get(key)] for key in keys}


def settings_of(row: dict[str, Any]) -> str:
    """Write what `other_settings` found as text."""
    return ", ".join(f"{key} {other} ({first})" for key, (first, other) in row["settings"].items())


def span_of(ends: Sequence[float]) -> str:
    """Format an interval."""
    return f"{ends[0]:.4f} – {ends[1]:.4f}"
