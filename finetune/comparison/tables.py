"""A comparison on the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from biomlm.finetune.comparison.errors import KINDS
from biomlm.finetune.comparison.runs import Comparison, labels, matrix, settings_of, span_of

WIDTH = 160


def show(comparisons: Sequence[Comparison]) -> None:
    """Print models × tasks where there are several tasks, then each task."""
    console = Console(highlight=False, markup=False, width=WIDTH)
    names = labels(comparisons)
    if len(comparisons) > 1:
        table = _table("model", *(comparison.name for comparison in comparisons))
        for name, cells in matrix(comparisons).items():
            table.add_row(
                name, *(_cell(comparison.metric, cell) for comparison, cell in zip(comparisons, cells, strict=True))
            )
        console.print(table)
    for comparison in comparisons:
        console.print(f"\n{comparison.name}" if len(comparisons) > 1 else comparison.name, style="bold")
        console.print(_scores(comparison, names))
        for row in comparison.compared:
            if row["settings"]:
                console.print(f"{names[row['run']]} differs from the first run in {settings_of(row)}")
        kinds = list(comparison.compared[0]["types"])
        if len(kinds) > 1:
            console.print("\nF1 by type", _by_type(kinds, comparison, names))
        if comparison.compared[0]["mistakes"]:
            console.print("\nMistakes by type, a seed", _mistakes(comparison, names))
        if comparison.words:
            console.print("\nWhat most runs and seeds get wrong", _words(comparison))


def _cell(metric: str, row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row[metric]:.4f}{_deviation(row)} ({span_of(row['interval'])})"


def _deviation(row: dict[str, Any]) -> str:
    return "" if row["sd"] is None else f" ± {row['sd']:.4f}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def _scores(comparison: Comparison, names: dict[str, str]) -> Table:
    columns = (f"test {comparison.metric}", "± sd", "95% interval", "difference", "95% interval", "p", "seeds")
    table = _table("run", *columns)
    for i, row in enumerate(comparison.compared):
        cells = [
            names[row["run"]],
            f"{row[comparison.metric]:.4f}",
            _deviation(row).removeprefix(" ± "),
            span_of(row["interval"]),
        ]
        against = [f"{row['difference']:+.4f}", span_of(row["difference_interval"]), f"{row['p']:.3f}"]
        table.add_row(*cells, *(against if i else ["", "", ""]), str(row["seeds"]))
    return table


def _by_type(kinds: list[str], comparison: Comparison, names: dict[str, str]) -> Table:
    """Tabulate types × runs, the types that differ most between runs first."""
    table = _table("type", *(names[row["run"]] for row in comparison.compared))
    values = {kind: [row["types"].get(kind, 0.0) for row in comparison.compared] for kind in kinds}
    for kind in sorted(kinds, key=lambda kind: min(values[kind]) - max(values[kind])):
        table.add_row(kind, *(f"{value:.4f}" for value in values[kind]))
    return table


def _mistakes(comparison: Comparison, names: dict[str, str]) -> Table:
    """Tabulate types and runs × kinds of mistakes."""
    columns = columns_of(comparison)
    table = _table("type", "run", *columns)
    for kind, run, counts in rows_of(comparison, names):
        table.add_row(kind, run, *(f"{counts.get(column, 0):.1f}" for column in columns))
    return table


def columns_of(comparison: Comparison) -> list[str]:
    """List the kinds of mistakes that occur, or the labels that are predicted."""
    outcomes = dict.fromkeys(
        name for row in comparison.compared for counts in row["mistakes"].values() for name in counts
    )
    return [kind for kind in KINDS if kind in outcomes] if set(outcomes) <= set(KINDS) else sorted(outcomes)


def rows_of(comparison: Comparison, names: dict[str, str]) -> list[tuple[str, str, dict[str, float]]]:
    """List the counts of each type and run."""
    types = sorted({kind for row in comparison.compared for kind in row["mistakes"]})
    return [(kind, names[row["run"]], row["mistakes"].get(kind, {})) for kind in types for row in comparison.compared]


def _words(comparison: Comparison) -> Table:
    table = _table("words", "gold", "said instead", "wrong in")
    for mistake, (before, inside, after) in comparison.words:
        shown = f"{before}[{inside}]{after}" if mistake.span else inside
        table.add_row(
            " ".join(shown.split()), mistake.gold or "nothing", ", ".join(mistake.predicted), f"{mistake.share:.0%}"
        )
    return table
