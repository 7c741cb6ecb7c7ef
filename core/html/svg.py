"""Draw charts as inline SVG: lines, horizontal bars and a row of boxes. Colours are classes that the page's style sheet fills in.

Every chart is drawn in its `viewBox` and scales with the page. A value that is not finite is left out: a line breaks there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from biomlm.core.html.page import Markup, join, number, tag
from biomlm.core.progress import human

COLOURS = 6  # series classes s0 … s5 in page.css
DOTS = 40  # points beyond which a line has no dots
HUGE = 1e290  # beyond this, and below its inverse on a logarithmic axis, nothing is drawn
LETTER = 7.2  # about the width of a letter at the charts' font size of 12

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        name: For the legend; lines of one name share it.
        points: (x, y), ascending in x.
        colour: Index of its colour.
        faint: Drawn thin and pale, as a noisy line beside its smooth one.
    """

    name: str
    points: Sequence[Point]
    colour: int
    faint: bool = False


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line with a name.

    Args:
        name: Stands on the line.
        y: Its height.
    """

    name: str
    y: float


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map of [low, high] to [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Map a value."""
        low, high, position = (
            (math.log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (position - low) / (high - low) * (self.end - self.start)


RESOLUTION = 1e-9  # of a scale: values closer than this are too near a double's precision to have ticks of their own


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose round numbers within [low, high], at most `most` + 1 of them, 1, 2 or 5 times a power of ten apart."""
    if not high - low > max(RESOLUTION * max(abs(low), abs(high)), 1 / HUGE):
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Choose 1, 2 and 5 times the powers of ten in [low, high]; only the powers where these would be too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    return fine if len(fine) <= 8 else [tick for tick in fine if math.isclose(math.log10(tick) % 1, 0, abs_tol=1e-9)]


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    levels: Sequence[Level] = (),
    log_x: bool = False,
    zero: bool = False,
    width: int = 960,
    height: int = 380,
) -> Markup:
    """Draw lines over a common x, with a legend above and the last value at the end of each strong line.

    Args:
        title: For readers that do not see the picture.
        lines: What is drawn; points that are not finite (or not positive, on a logarithmic x) are left out.
        x_label: The quantity and its unit.
        y_label: The quantity and its unit.
        levels: Dashed lines.
        log_x: Logarithmic x.
        zero: Let y start at 0.
        width: Of the `viewBox`.
        height: Of the `viewBox`.
    """
    points = [p for line in lines for p in line.points if _drawable(p, log_x)]
    if not points:
        return tag("p", "nothing measured yet", class_="missing")
    heights = [y for _, y in points] + [level.y for level in levels if _drawable((1.0, level.y), log_x)] + [0.0] * zero
    x = Scale(*_padded(min(p[0] for p in points), max(p[0] for p in points), log_x), 56, width - 64, log_x)
    y = Scale(*_spread(min(heights), max(heights), zero), height - 44, 34)
    parts = [_grid(x, y, x_label, y_label)]
    parts += [_level(level, x, y) for level in levels if _drawable((1.0, level.y), log_x)]
    parts += [_line(line, x, y, log_x) for line in sorted(lines, key=lambda line: not line.faint)]
    parts += [_ends([line for line in lines if not line.faint], x, y, log_x), _legend(lines)]
    return _svg(title, width, height, *parts)


def _drawable(point: Point, log_x: bool) -> bool:
    return all(math.isfinite(v) and abs(v) < HUGE for v in point) and (not log_x or point[0] > 1 / HUGE)


def _padded(low: float, high: float, log: bool = False) -> tuple[float, float]:
    """Widen a range that is too narrow to be drawn."""
    size = max(abs(low), abs(high))
    if high - low > size * 1e-9:
        return low, high
    return (low / 2, high * 2) if log else (low - (size * 0.1 or 1.0), high + (size * 0.1 or 1.0))


def _spread(low: float, high: float, zero: bool) -> tuple[float, float]:
    """Add a margin above a range, and below unless it starts at zero."""
    low, high = _padded(low, high)
    margin = (high - low) * 0.06
    return (low if zero else low - margin), high + margin


def _grid(x: Scale, y: Scale, x_label: str, y_label: str) -> Markup:
    parts = []
    for tick in ticks(y.low, y.high):
        at = y(tick)
        parts.append(tag("line", x1=x.start, x2=x.end, y1=at, y2=at, class_="grid"))
        parts.append(tag("text", figure(tick), x=x.start - 8, y=at + 4, text_anchor="end"))
    for tick in log_ticks(x.low, x.high) if x.log else ticks(x.low, x.high):
        at = x(tick)
        parts.append(tag("line", x1=at, x2=at, y1=y.start, y2=y.start + 4, class_="axis"))
        parts.append(tag("text", figure(tick), x=at, y=y.start + 18, text_anchor="middle"))
    parts.append(tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    parts.append(tag("text", x_label, x=(x.start + x.end) / 2, y=y.start + 38, text_anchor="middle", class_="label"))
    parts.append(tag("text", y_label, x=0.0, y=14.0, class_="label"))
    return join(parts)


def figure(value: float) -> str:
    """Format a figure on a chart: 1.5M, 300, 0.02."""
    return human(value) if abs(value) >= 0.001 or not value else f"{value:.2g}"


def _level(level: Level, x: Scale, y: Scale) -> Markup:
    at = y(level.y)
    return join(
        tag("line", x1=x.start, x2=x.end, y1=at, y2=at, class_="level"),
        tag("text", level.name, x=x.end, y=at - 6, text_anchor="end", class_="label"),
    )


def _line(line: Line, x: Scale, y: Scale, log_x: bool) -> Markup:
    """Draw a path with a break at every point that cannot be drawn; strong lines get dots with their values."""
    commands, pen = [], "M"
    for point in line.points:
        if not _drawable(point, log_x):
            pen = "M"
            continue
        commands.append(f"{pen}{number(x(point[0]))} {number(y(point[1]))}")
        pen = "L"
    colour = f"s{line.colour % COLOURS}"
    parts = (
        [tag("path", d=" ".join(commands), class_=f"line {colour}{' faint' if line.faint else ''}")] if commands else []
    )
    if not line.faint and len(line.points) <= DOTS:
        for px, py in line.points:
            if _drawable((px, py), log_x):
                tooltip = tag("title", f"{line.name}: {py:.4g} at {figure(px)}")
                parts.append(tag("circle", tooltip, cx=x(px), cy=y(py), r=2.5, class_=f"dot {colour}"))
    return join(parts)


def _ends(lines: Sequence[Line], x: Scale, y: Scale, log_x: bool) -> Markup:
    """Write the last value beside each line's end, pushed apart where they would touch."""
    ends = [(line, [p for p in line.points if _drawable(p, log_x)]) for line in lines]
    last = sorted(((y(p[-1][1]), line, p[-1]) for line, p in ends if p), key=lambda end: end[0])
    parts, floor = [], -math.inf
    for at, line, (px, py) in last:
        floor = max(at, floor + 13)
        parts.append(tag("text", figure(py), x=x(px) + 7, y=floor + 4, class_=f"end s{line.colour % COLOURS}"))
    return join(parts)


def _legend(lines: Sequence[Line]) -> Markup:
    parts, at = [], 110.0
    for line in {line.name: line for line in sorted(lines, key=lambda line: not line.faint)}.values():
        kind = f"line s{line.colour % COLOURS}{' faint' if line.faint else ''}"
        parts.append(tag("line", x1=at, x2=at + 18, y1=10.0, y2=10.0, class_=kind))
        parts.append(tag("text", line.name, x=at + 24, y=14.0))
        at += 44 + LETTER * len(line.name)
    return join(parts)


def bar_chart(title: str, bars: Sequence[tuple[str, float]], *, colour: int = 0, width: int = 440) -> Markup:
    """Draw horizontal bars with their names on the left and their values at the ends.

    Args:
        title: For readers that do not see the picture.
        bars: Name and value; values that are negative or not finite are left out.
        colour: Index of their colour.
        width: Of the `viewBox`.
    """
    bars = [(name, value) for name, value in bars if math.isfinite(value) and value >= 0]
    if not bars:
        return tag("p", "none", class_="missing")
    left = min(max(len(name) for name, _ in bars), 28) * LETTER + 20
    largest = max(value for _, value in bars) or 1.0
    parts = []
    for i, (name, value) in enumerate(bars):
        top = 24.0 * i + 4
        length = value / largest * (width - left - 84)
        parts.append(tag("text", _cut(name, 28), x=left - 8, y=top + 13, text_anchor="end"))
        parts.append(
            tag("rect", x=left, y=top, width=max(length, 1.0), height=16.0, rx=2.0, class_=f"bar s{colour % COLOURS}")
        )
        parts.append(tag("text", f"{value:,.0f}", x=left + length + 6, y=top + 13, class_="label"))
    return _svg(title, width, 24 * len(bars) + 4, *parts)


@dataclass(frozen=True)
class Box:
    """A step of the pipeline.

    Args:
        name: The step.
        figures: A few short lines under it.
        column: Where it stands, from the left.
        after: Indices of the boxes that lead to it.
    """

    name: str
    figures: Sequence[str]
    column: int
    after: Sequence[int] = ()


def flow_chart(title: str, boxes: Sequence[Box], *, width: int = 960) -> Markup:
    """Draw boxes in columns, joined from left to right.

    Args:
        title: For readers that do not see the picture.
        boxes: The steps; those of one column stand below one another.
        width: Of the `viewBox`.
    """
    if not boxes:
        return tag("p", "nothing run yet", class_="missing")
    columns = 1 + max(box.column for box in boxes)
    tall = 40 + 16 * max(len(box.figures) for box in boxes)
    rows = max(sum(box.column == c for box in boxes) for c in range(columns))
    gap, height = 26.0, rows * (tall + 16) + 2
    wide = (width - 2 - gap * (columns - 1)) / columns
    corners: list[Point] = []
    for i, box in enumerate(boxes):
        inside = [j for j, other in enumerate(boxes) if other.column == box.column]
        top = (height - len(inside) * (tall + 16) + 16) / 2 + inside.index(i) * (tall + 16)
        corners.append((1 + box.column * (wide + gap), top))
    parts = [
        _arrow((corners[j][0] + wide, corners[j][1] + tall / 2), (corners[i][0], corners[i][1] + tall / 2))
        for i, box in enumerate(boxes)
        for j in box.after
    ]
    letters = int((wide - 16) / LETTER)
    for box, (left, top) in zip(boxes, corners, strict=True):
        parts.append(tag("rect", x=left, y=top, width=wide, height=float(tall), rx=6.0, class_="box"))
        parts.append(tag("text", _cut(box.name, letters), x=left + 10, y=top + 22, class_="strong"))
        for i, line in enumerate(box.figures):
            parts.append(tag("text", _cut(line, letters), x=left + 10, y=top + 42 + 16 * i, class_="label"))
    return _svg(title, width, int(height), *parts)


def _arrow(start: Point, end: Point) -> Markup:
    (x1, y1), (x2, y2) = start, end
    middle = (x1 + x2) / 2
    path = f"M{number(x1)} {number(y1)} C{number(middle)} {number(y1)} {number(middle)} {number(y2)} {number(x2)} {number(y2)}"
    head = f"M{number(x2 - 6)} {number(y2 - 4)} L{number(x2)} {number(y2)} L{number(x2 - 6)} {number(y2 + 4)}"
    return join(tag("path", d=path, class_="arrow"), tag("path", d=head, class_="arrow"))


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: max(letters - 1, 1)] + "…"


def _svg(title: str, width: int, height: int, *parts: Markup) -> Markup:
    return tag(
        "svg",
        tag("title", title),
        *parts,
        viewBox=f"0 0 {width} {height}",
        role="img",
        xmlns="http://www.w3.org/2000/svg",
    )
