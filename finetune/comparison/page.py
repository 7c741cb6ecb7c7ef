"""A comparison as one HTML page: models × tasks, learning curves, mistakes by type, and words only if they were asked for."""

from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from biomlm.core.html.page import Child, Markup, document, join, table, tag
from biomlm.core.html.svg import COLOURS, Line, line_chart
from biomlm.finetune.comparison.runs import Comparison, labels, matrix, settings_of, span_of
from biomlm.finetune.comparison.tables import columns_of, rows_of

TITLE = "biomlm finetune compare"
SURE = 0.05  # p below which a difference is coloured


def page(comparisons: Sequence[Comparison]) -> str:
    """Render the page."""
    names = labels(comparisons)
    colour = {name: i % COLOURS for i, name in enumerate(matrix(comparisons))}
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    words = any(comparison.words for comparison in comparisons)
    notice = "Words of the test folds are on this page." if words else "No text of any document is on this page."
    body = join(
        tag("header", tag("h1", TITLE)),
        tag("section", tag("h2", "Scores"), _grid(comparisons, colour)),
        [tag("section", tag("h2", comparison.name), _section(comparison, names, colour)) for comparison in comparisons],
        tag("footer", f"Made by {TITLE}, {date}. {notice}"),
    )
    return document(TITLE, body)


def _grid(comparisons: Sequence[Comparison], colour: dict[str, int]) -> Markup:
    """Tabulate models × tasks; each cell has score, deviation over seeds, interval, and the difference from the task's first run."""
    rows: list[list[Child]] = []
    for name, cells in matrix(comparisons).items():
        row = [_cell(comparison, cell) for comparison, cell in zip(comparisons, cells, strict=True)]
        rows.append([join(tag("span", class_=f"key s{colour[name]}"), name), *row])
    legend = "Mean of the seeds ± standard deviation; 95% bootstrap interval over test records; difference from the first model and its p."
    return join(
        table(["model", *(f"{c.name}, {c.metric}" for c in comparisons)], rows, text=1), tag("p", legend, class_="note")
    )


def _cell(comparison: Comparison, row: dict[str, Any] | None) -> Child:
    if row is None:
        return None
    apart = "" if row["sd"] is None else f" ± {row['sd']:.4f}"
    parts: list[Child] = [tag("b", f"{row[comparison.metric]:.4f}"), apart, tag("br"), span_of(row["interval"])]
    if row is not comparison.compared[0]:
        sure = row["p"] < SURE
        kind = ("good" if row["difference"] > 0 else "bad") if sure else None
        parts += [tag("br"), tag("span", f"{row['difference']:+.4f} (p {row['p']:.3f})", class_=kind)]
    return join(parts)


def _section(comparison: Comparison, names: dict[str, str], colour: dict[str, int]) -> Markup:
    differences = [
        f"{names[row['run']]} differs from the first run in {settings_of(row)}."
        for row in comparison.compared
        if row["settings"]
    ]
    return join(
        [tag("p", difference, class_="note") for difference in differences],
        tag("figure", tag("h3", "Learning curves"), _curves(comparison, names, colour)),
        _types(comparison, names),
        _mistakes(comparison, names),
        _words(comparison),
    )


def _curves(comparison: Comparison, names: dict[str, str], colour: dict[str, int]) -> Markup:
    """Draw the development score after each epoch: each seed thin, their mean as far as all seeds go."""
    lines = []
    for run in comparison.runs:
        name = names[run.name]
        seeds = [[entry["dev"][comparison.metric] for entry in history] for history in run.histories]
        if len(seeds) > 1:
            lines += [Line(name, list(enumerate(values, start=1)), colour[name], faint=True) for values in seeds]
        means = [fmean(values) for values in zip(*seeds, strict=False)]
        lines.append(Line(name, list(enumerate(means, start=1)), colour[name]))
    return line_chart(
        f"{comparison.name}: development score by epoch", lines, x_label="epoch", y_label=f"dev {comparison.metric}"
    )


def _types(comparison: Comparison, names: dict[str, str]) -> Markup | None:
    kinds = list(comparison.compared[0]["types"])
    if len(kinds) < 2:
        return None
    rows: list[list[Child]] = [
        [kind, *(f"{row['types'].get(kind, 0.0):.4f}" for row in comparison.compared)] for kind in kinds
    ]
    return join(
        tag("h3", "F1 by type"), table(["type", *(names[row["run"]] for row in comparison.compared)], rows, text=1)
    )


def _mistakes(comparison: Comparison, names: dict[str, str]) -> Markup | None:
    columns, counted = columns_of(comparison), rows_of(comparison, names)
    rows: list[list[Child]] = [
        [kind, run, *(f"{counts.get(c, 0):.1f}" for c in columns)] for kind, run, counts in counted
    ]
    if not rows:
        return None
    return join(tag("h3", "What became of each type, a seed"), table(["type", "model", *columns], rows, text=2))


def _words(comparison: Comparison) -> Markup | None:
    rows: list[list[Child]] = []
    for mistake, (before, inside, after) in comparison.words:
        shown = join(before, tag("mark", inside), after) if mistake.span else inside
        rows.append([shown, mistake.gold or "nothing", ", ".join(mistake.predicted), f"{mistake.share:.0%}"])
    if not rows:
        return None
    return join(
        tag("h3", "What most runs and seeds get wrong"),
        table(["words", "gold", "said instead", "wrong in"], rows, text=3),
    )
