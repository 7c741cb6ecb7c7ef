"""The report's page: tables and pictures as HTML and SVG in one file that needs nothing else."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left } svg { width: 100%; max-width: 44rem; font: 11px system-ui, sans-serif }
.note { color: #555 }
"""
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe and Ito's, told apart by colour-blind readers

CELL = 34
LEFT, TOP = 64, 30


def page(title: str, *parts: str) -> str:
    """A whole page."""
    body = "\n".join(parts)
    head = f"<meta charset='utf-8'><title>{escape(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is words."""
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def heat_map(rows: Sequence[Sequence[float]]) -> str:
    """Similarities from 0 (white) to 1 (dark): the student's layers down, the teacher's across, the embeddings as layer 0."""
    parts = []
    for i, row in enumerate(rows):
        parts.append(_text(LEFT - 8, TOP + CELL * i + 21, f"layer {i}", "end"))
        for j, value in enumerate(row):
            x, y = LEFT + CELL * j, TOP + CELL * i
            colour = "#fff" if value > 0.55 else "#222"
            told = f"<title>student layer {i}, teacher layer {j}: {value:.3f}</title>"
            place = f"x='{x}' y='{y}' width='{CELL}' height='{CELL}'"
            box = f"<rect {place} fill='#08306b' fill-opacity='{value:.3f}' stroke='#ddd'>{told}</rect>"
            parts += [box, _text(x + CELL / 2, y + 21, f"{value:.2f}", "middle", colour)]
    across = len(rows[0])
    parts += [_text(LEFT + CELL * j + CELL / 2, TOP - 8, str(j), "middle") for j in range(across)]
    return _svg("similarity of layers", LEFT + CELL * across + 8, TOP + CELL * len(rows) + 8, parts)


def curves(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Each part of the training loss over the steps, unweighted, each from 0 to its own largest value."""
    width, height, parts = 640, 240, []
    last = max((r["step"] for r in metrics), default=1)
    for n, name in enumerate(names):
        points = [(r["step"], r[name]) for r in metrics if name in r]
        most = max((value for _, value in points), default=0) or 1
        line = " ".join(
            f"{LEFT + (width - LEFT - 8) * s / last:.1f},{height - (height - 30) * v / most:.1f}" for s, v in points
        )
        colour = COLOURS[n % len(COLOURS)]
        parts.append(f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='1.8'/>")
        parts.append(_text(LEFT + 110 * n, 14, f"{name}, up to {most:.3g}", "start", colour))
    parts.append(_text(width - 8, height + 16, f"{last:,} steps", "end"))
    parts.append(f"<line x1='{LEFT}' x2='{width - 8}' y1='{height}' y2='{height}' stroke='#999'/>")
    return _svg("loss by part", width, height + 24, parts)


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#222") -> str:
    return f"<text x='{x}' y='{y}' text-anchor='{anchor}' fill='{colour}'>{escape(text)}</text>"


def _svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    head = f"<svg xmlns='http://www.w3.org/2000/svg' role='img' viewBox='0 0 {width} {height}'><title>{escape(title)}</title>"
    return head + "".join(parts) + "</svg>"
