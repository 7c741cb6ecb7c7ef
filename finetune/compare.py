"""`biolm finetune compare RUN…`: test scores side by side, and whether a difference is more than chance.

The paired bootstrap draws the same test records for both runs, so that what is hard for both does not blur the difference.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from biolm.core.cli import Verb
from biolm.core.errors import ConfigError, MismatchError
from biolm.core.files import read_json, write_json
from biolm.core.manifest import read_manifest
from biolm.finetune import protocol, saved
from biolm.finetune.bootstrap import interval, resampled
from biolm.finetune.scorers import F64, Scorer


@dataclass(frozen=True)
class CompareConfig:
    """Runs to compare; all on one test file.

    Args:
        runs: Run folders that `biolm finetune` wrote; the others are compared with the first.
        out: A JSON file to write the comparison to as well.
    """

    runs: list[str]
    out: str = field(default="", metadata={"runtime": True})

    def __post_init__(self) -> None:
        if len(set(self.runs)) < 2 or len(set(self.runs)) < len(self.runs):
            raise ConfigError("there must be two runs or more, each once", remedy="Give several run folders.")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        name: Its folder, as given.
        scores: `scores.json`.
        rows: Each seed's counts of every test record.
        test: Hash of the test fold's file.
    """

    name: str
    scores: dict[str, Any]
    rows: list[F64]
    test: dict[str, str]

    def values(self, scorer: Scorer[Any]) -> F64:
        """The mean score over seeds on each resample of the test records."""
        return np.asarray(np.mean([scorer.value(resampled(rows)) for rows in self.rows], axis=0))


def run(config: CompareConfig) -> None:
    """Print the table and, with `out`, write JSON.

    Raises:
        MismatchError: The runs are of different tasks or data.
    """
    runs = [load(name) for name in config.runs]
    first = runs[0]
    for other in runs[1:]:
        if other.scores["task"] != first.scores["task"] or other.test != first.test:
            problem = f"its task or data are not those of {first.name}"
            raise MismatchError(problem, file=other.name, remedy="Compare runs on the same data.")
    scorer = saved.read(first.name)[0].scorer
    compared = [against(scorer, first, other) for other in runs]
    if config.out:
        write_json(config.out, {"metric": scorer.metric, "against": first.name, "runs": compared})
    show(scorer.metric, compared)


def load(name: str) -> Run:
    """Read a finished run.

    Raises:
        DataError: It is none, or it was interrupted.
    """
    folder = Path(name)
    manifest = read_manifest(folder, "finetune")
    scores = read_json(folder / "scores.json")
    seeds: Any = scores["seeds"]
    rows = [np.load(protocol.folder_of(folder, seed) / protocol.ROWS) for seed in seeds]
    return Run(name, scores, rows, {k: v for k, v in manifest.inputs.items() if k != "model"})


def against(scorer: Scorer[Any], first: Run, other: Run) -> dict[str, Any]:
    """A run's score, and its difference from the first one's with interval and p-value.

    The p-value is two-sided: twice the share of resamples in which the difference has the other sign (ties count), at most 1.
    """
    metric = scorer.metric
    difference = other.values(scorer) - first.values(scorer)
    worse, better = float(np.mean(difference <= 0)), float(np.mean(difference >= 0))
    test = other.scores["test"]
    return {
        "run": other.name,
        "seeds": len(other.rows),
        metric: test[metric],
        "sd": test[f"{metric}_sd"],
        "interval": test[f"{metric}_interval"],
        "difference": test[metric] - first.scores["test"][metric],
        "difference_interval": interval(difference),
        "p": min(1.0, 2 * min(worse, better)),
        "types": {kind: scores["f1"] for kind, scores in test.get("types", {}).items()},
    }


def show(metric: str, compared: list[dict[str, Any]]) -> None:
    """Print the comparison; differences are against the first run."""
    table = Table(box=None, pad_edge=False)
    for column in ("run", f"test {metric}", "± sd", "95% interval", "difference", "95% interval", "p", "seeds"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for i, row in enumerate(compared):
        deviation = "" if row["sd"] is None else f"{row['sd']:.4f}"
        cells = [row["run"], f"{row[metric]:.4f}", deviation, _range(row["interval"])]
        cells += (
            [f"{row['difference']:+.4f}", _range(row["difference_interval"]), f"{row['p']:.3f}"] if i else ["", "", ""]
        )
        table.add_row(*cells, str(row["seeds"]))
    console = Console(highlight=False, markup=False, width=160)
    console.print(table)
    kinds = list(compared[0]["types"])
    if len(kinds) > 1:
        console.print("\nF1 by type", _by_type(kinds, compared))


def _by_type(kinds: list[str], compared: list[dict[str, Any]]) -> Table:
    """Types × runs, the types that differ most between runs first."""
    table = Table(box=None, pad_edge=False)
    for column in ("type", *(row["run"] for row in compared)):
        table.add_column(column, justify="left" if column == "type" else "right")
    values = {kind: [row["types"].get(kind, 0.0) for row in compared] for kind in kinds}
    for kind in sorted(kinds, key=lambda kind: min(values[kind]) - max(values[kind])):
        table.add_row(kind, *(f"{value:.4f}" for value in values[kind]))
    return table


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.4f} – {ends[1]:.4f}"


VERB = Verb(
    config=CompareConfig,
    run=run,
    example="biolm finetune compare runs/before runs/after",
    positionals=("runs",),
)
