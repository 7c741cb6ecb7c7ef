"""The section of the report that sets models beside what they were before: held-out loss by source, scores on a task."""

import math
from typing import Any

from biomlm.core.html.page import Child, Markup, join, table, tag
from biomlm.launch.reporting.run_folders import ReportData, Run, finite, mapping

NO_FIGURE = "–"
ALL = "all"
HEADS = ("text", "masked tokens", "loss before", "loss after", "change", "accuracy before", "accuracy after")


def section(data: ReportData) -> Markup | None:
    """Set the last run beside the first evaluation on the same held-out tokens, and fine-tuned models beside each other."""
    parts: list[Child] = [_held_out(data), _tasks(data)]
    return join(parts) if any(parts) else None


def _held_out(data: ReportData) -> Markup | None:
    pair = before_and_after(data)
    if pair is None:
        return None
    before, after = pair
    rows: list[list[Child]] = []
    for source in by_source(before):
        old, new = by_source(before)[source], by_source(after).get(source, {})
        losses = finite(old.get("loss")), finite(new.get("loss"))
        accuracies = [_percent(finite(figures.get("accuracy"))) for figures in (old, new)]
        masked = finite(old.get("masked_tokens"))
        count = f"{masked:,.0f}" if math.isfinite(masked) else NO_FIGURE
        rows.append([source, count, *map(_decimal, losses), _signed(losses[1] - losses[0]), *accuracies])
    note = (
        f"{before.name} is the model as it came, {after.name} as it is now; losses in nats, on the same held-out tokens and masks. "
        "Patients and articles of the held-out text are not in the training text."
    )
    return join(table(HEADS, rows, text=1), tag("p", note, class_="note"))


def before_and_after(data: ReportData) -> tuple[Run, Run] | None:
    """Find an evaluation and the last run that was evaluated on the same tokens."""
    for before in data.evaluations:
        for after in reversed(data.runs):
            same = [run.valid.get("masked_tokens") for run in (before, after)]
            if same[0] is not None and same[0] == same[1]:
                return before, after
    return None


def by_source(run: Run) -> dict[str, dict[str, Any]]:
    """Map each source to its figures, all text first."""
    sources = {name: mapping(figures) for name, figures in mapping(run.valid.get("sources")).items()}
    return {ALL: run.valid, **sources}


def _tasks(data: ReportData) -> Markup | None:
    """Tabulate the test scores of fine-tuned models."""
    rows: list[list[Child]] = []
    for name, scores in data.scores.items():
        test, metric = mapping(scores.get("test")), str(scores.get("metric", ""))
        low, high = _pair(test.get(f"{metric}_interval"))
        figures = [finite(test.get(metric)), finite(test.get(f"{metric}_sd")), low, high]
        rows.append([name, str(scores.get("task", "")), metric, *map(_decimal, figures)])
    heads = ("fine-tuned", "task", "score", "test", "± sd", "95% from", "to")
    return table(heads, rows, text=3) if rows else None


def _pair(interval: object) -> tuple[float, float]:
    if isinstance(interval, list) and len(interval) == 2:
        return finite(interval[0]), finite(interval[1])
    return math.nan, math.nan


def _decimal(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else NO_FIGURE


def _percent(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else NO_FIGURE


def _signed(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else NO_FIGURE
