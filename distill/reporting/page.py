"""Render the report as one HTML page: size and speed, held-out figures by source, the loss by part, and the layers' similarity."""

from collections.abc import Mapping, Sequence
from typing import Any

from biomlm.core.html.page import Markup, document, join, table, tag
from biomlm.core.html.svg import COLOURS, Line, line_chart
from biomlm.distill.reporting.held_out import ALL

COLUMNS = {"loss": ".3f", "right": ".1%", "kl": ".3f", "agree": ".1%"}
CELL = 34
LEFT, TOP = 64, 30
DARK = 0.55  # a similarity above this stands in the page's colour on its cell


def page(title: str, figures: Mapping[str, Any], train: Sequence[Mapping[str, Any]], teacher: str) -> str:
    """Render the page.

    Args:
        title: Its heading.
        figures: What `report.json` holds.
        train: The run's metrics of training.
        teacher: The name of the model that the others are compared with.
    """
    masked = figures["models"][teacher]["sources"][ALL]["masked"]
    same = "Forward passes with the head on masked positions, the models taking turns on the same micro-batches."
    nats = f"{masked:,} masked tokens, the same for all models; loss and KL in nats, at temperature 1."
    cka = (
        "Linear CKA of the student's layers (down) with the teacher's (across); 0 is the embeddings' output. "
        "1 is the same up to rotation and scale."
    )
    parts = [[name, f"{v['first']:.4g}", f"{v['last']:.4g}"] for name, v in figures["parts"].items()]
    body = join(
        tag("header", tag("h1", title)),
        tag("section", tag("h2", "Size and speed"), _sizes(figures["models"], teacher), tag("p", same, class_="note")),
        tag("section", tag("h2", "Held-out text, by source"), _sources(figures["models"], teacher)),
        tag("p", nats, class_="note"),
        tag("section", tag("h2", "Training loss by part"), table(("part", "first", "last"), parts, text=1)),
        curves(train, list(figures["parts"])),
        tag("section", tag("h2", "Layers alike"), _similarities(figures["similarity"]), tag("p", cka, class_="note")),
    )
    return document(title, body)


def _sizes(models: Mapping[str, Any], teacher: str) -> Markup:
    whole = models[teacher]
    rows = [
        [
            name,
            f"{m['parameters']:,}",
            f"{m['parameters'] / whole['parameters']:.1%}",
            f"{m['tokens_per_second']:,.0f}",
            f"{m['tokens_per_second'] / whole['tokens_per_second']:.2f} ×",
        ]
        for name, m in models.items()
    ]
    return table(("model", "parameters", "of the teacher's", "real tokens/s", "speed"), rows, text=1)


def _sources(models: Mapping[str, Any], teacher: str) -> Markup:
    rows = [
        [
            source,
            name,
            f"{v['masked']:,}",
            *("–" if v[name] is None else f"{v[name]:{form}}" for name, form in COLUMNS.items()),
        ]
        for source in models[teacher]["sources"]
        for name, m in models.items()
        for v in [m["sources"][source]]
    ]
    heads = ("source", "model", "masked", "loss", "accuracy", "KL from the teacher", "agrees with it")
    return table(heads, rows, text=2)


def _similarities(similarity: Any) -> Markup:
    """Draw the similarity with one teacher, or with each of several."""
    if not isinstance(similarity, dict):
        return heat_map(similarity)
    return join(*(join(tag("h3", name), heat_map(rows)) for name, rows in similarity.items()))


def heat_map(rows: Sequence[Sequence[float]]) -> Markup:
    """Draw similarities from 0 to 1 as the strength of a colour: the student's layers down, the teacher's across, 0 the embeddings."""
    columns = len(rows[0])
    parts = [_text(LEFT + CELL * j + CELL / 2, TOP - 8, str(j)) for j in range(columns)]
    for i, row in enumerate(rows):
        parts.append(_text(LEFT / 2, TOP + CELL * i + 21, f"layer {i}"))
        for j, value in enumerate(row):
            x, y = LEFT + CELL * j, TOP + CELL * i
            tooltip = tag("title", f"student layer {i}, teacher layer {j}: {value:.3f}")
            position = {"x": x, "y": y, "width": CELL, "height": CELL}
            parts.append(tag("rect", tooltip, **position, fill_opacity=f"{value:.3f}", style="fill: var(--accent)"))
            parts.append(_text(x + CELL / 2, y + 21, f"{value:.2f}", "fill: var(--page)" if value > DARK else None))
    width, height = LEFT + CELL * columns, TOP + CELL * len(rows)
    size = {"viewBox": f"0 0 {width} {height}", "style": f"max-width: {width}px"}
    return tag(
        "svg", tag("title", "similarity of layers"), parts, role="img", xmlns="http://www.w3.org/2000/svg", **size
    )


def curves(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Markup:
    """Draw each part of the training loss over the steps, unweighted, as a share of its own largest value."""
    lines = []
    for n, name in enumerate(names):
        points = [(r["step"], r[name]) for r in metrics if name in r]
        largest = max(value for _, value in points) or 1
        lines.append(
            Line(f"{name}, up to {largest:.3g}", [(step, value / largest) for step, value in points], n % COLOURS)
        )
    return line_chart("loss by part", lines, x_label="step", y_label="share of its largest value", zero=True)


def _text(x: float, y: float, text: str, style: str | None = None) -> Markup:
    return tag("text", text, x=x, y=y, text_anchor="middle", style=style)
