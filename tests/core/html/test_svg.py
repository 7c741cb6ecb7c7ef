"""Charts: well-formed, inside their frame and honest about order, whatever the numbers are."""

import math
import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lxml import etree

from biomlm.core.html.page import join, number, tag
from biomlm.core.html.svg import HUGE, Box, Level, Line, Scale, bar_chart, flow_chart, line_chart, log_ticks, ticks

anything = st.floats(allow_nan=True, allow_infinity=True)
sane = st.floats(-1e12, 1e12)
text = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=12)
SVG = "{http://www.w3.org/2000/svg}"


def numbers(picture: str) -> tuple[list[float], list[float]]:
    """All x and all y of a picture's marks."""
    xs: list[float] = []
    ys: list[float] = []
    for element in etree.fromstring(picture).iter():
        for key, value in element.attrib.items():
            if key in ("x", "x1", "x2", "cx"):
                xs.append(float(value))
            if key in ("y", "y1", "y2", "cy"):
                ys.append(float(value))
            if key == "d":
                found = [float(n) for n in re.findall(r"-?[\d.]+", value)]
                xs += found[::2]
                ys += found[1::2]
    return xs, ys


@example(points=[(0.0, 5e-324)], name="", level=0.0, log=False, zero=False)
@given(
    points=st.lists(st.tuples(anything, anything), max_size=30),
    name=text,
    level=anything,
    log=st.booleans(),
    zero=st.booleans(),
)
def test_a_line_chart_is_well_formed_for_any_numbers(
    points: list[tuple[float, float]], name: str, level: float, log: bool, zero: bool
) -> None:
    lines = [Line(name, points, 0), Line("b", points[::2], 7, faint=True)]
    picture = line_chart("t", lines, x_label=name, y_label="y", levels=[Level(name, level)], log_x=log, zero=zero)
    good = [
        p for p in points if all(map(math.isfinite, p)) and max(map(abs, p)) < HUGE and (not log or p[0] > 1 / HUGE)
    ]
    if not good:
        assert picture.startswith("<p")
        return
    assert "nan" not in re.sub(r">[^<]*<", "><", picture)
    assert etree.fromstring(picture).tag == f"{SVG}svg"


@given(points=st.lists(st.tuples(sane, sane), min_size=1, max_size=30))
def test_lines_stay_inside_the_frame(points: list[tuple[float, float]]) -> None:
    xs, ys = numbers(
        line_chart("t", [Line("a", sorted(points), 0, faint=True)], x_label="x", y_label="y", width=600, height=300)
    )
    assert min(xs) >= 0
    assert max(xs) <= 600
    assert min(ys) >= 0
    assert max(ys) <= 300


def test_a_line_breaks_where_a_value_is_missing() -> None:
    points = [(0.0, 1.0), (1.0, math.nan), (2.0, 1.0), (3.0, 2.0)]
    picture = line_chart("t", [Line("a", points, 0)], x_label="x", y_label="y")
    path = next(e for e in etree.fromstring(picture).iter(f"{SVG}path"))
    assert path.get("d", "").count("M") == 2
    assert path.get("d", "").count("L") == 1
    assert picture.count("<circle") == 3


def test_larger_values_stand_higher_and_later_ones_further_right() -> None:
    picture = line_chart("t", [Line("a", [(1, 5), (10, 3), (100, 4)], 0)], x_label="x", y_label="y", log_x=True)
    dots = [(float(d.get("cx", "")), float(d.get("cy", ""))) for d in etree.fromstring(picture).iter(f"{SVG}circle")]
    (x1, y1), (x2, y2), (x3, y3) = dots
    assert y1 < y3 < y2
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.02)


@given(low=sane, width=st.floats(1e-6, 1e12), most=st.integers(2, 10))
@example(low=1801439851.0, width=1e-6, most=5)
def test_ticks_are_round_even_and_inside(low: float, width: float, most: int) -> None:
    high = low + width
    if not high > low:
        return
    found = ticks(low, high, most)
    assert len(found) <= most + 1
    slack = (high - low) * 1e-6 + abs(low) * 1e-9
    assert all(low - slack <= tick <= high + slack for tick in found)
    steps = [b - a for a, b in pairwise(found)]
    assert all(step == pytest.approx(steps[0], rel=1e-3, abs=slack) for step in steps)


@given(low=st.floats(1e-9, 1e9), factor=st.floats(1.01, 1e9))
def test_logarithmic_ticks_are_inside(low: float, factor: float) -> None:
    assert all(low <= tick <= low * factor for tick in log_ticks(low, low * factor))
    assert len(log_ticks(low, low * factor)) <= 10


@given(st.lists(st.tuples(text, anything), max_size=12))
def test_bars_are_in_proportion(bars: list[tuple[str, float]]) -> None:
    picture = bar_chart("t", bars)
    good = [value for _, value in bars if math.isfinite(value) and value >= 0]
    if not good:
        assert picture.startswith("<p")
        return
    widths = [float(r.get("width", "")) for r in etree.fromstring(picture).iter(f"{SVG}rect")]
    assert len(widths) == len(good)
    order = sorted(range(len(good)), key=good.__getitem__)
    assert all(widths[a] <= widths[b] for a, b in pairwise(order))


def test_boxes_are_joined_in_their_columns_and_do_not_touch() -> None:
    boxes = [Box("a", ["1"], 0), Box("b", ["2"], 1, [0]), Box("c <&>", [], 1, [0]), Box("d", [], 2, [1, 2])]
    picture = etree.fromstring(flow_chart("t", boxes, width=600))
    frames = [tuple(float(r.get(k, "")) for k in ("x", "y", "width", "height")) for r in picture.iter(f"{SVG}rect")]
    assert [frame[0] for frame in frames] == sorted(frame[0] for frame in frames)
    assert frames[1][1] + frames[1][3] < frames[2][1]
    assert all(x + width <= 600 for x, _, width, _ in frames)
    assert len(list(picture.iter(f"{SVG}path"))) == 2 * 4


@given(low=sane, high=sane, value=st.floats(0, 1))
def test_a_scale_maps_its_ends(low: float, high: float, value: float) -> None:
    if high - low < 1e-3:
        return
    scale = Scale(low, high, 10, 20)
    assert scale(low) == pytest.approx(10)
    assert scale(high) == pytest.approx(20)
    assert 10 - 1e-6 <= scale(low + value * (high - low)) <= 20 + 1e-6


@given(text)
def test_text_comes_back_as_it_went_in(words: str) -> None:
    element = etree.fromstring(tag("p", words, tag("b", words), title=words))
    assert element.text == (words or None)
    assert element[0].text == (words or None)
    assert element.get("title") == words


def test_none_and_false_leave_an_attribute_out() -> None:
    assert tag("td", 1, None, ["a", tag("br")], class_=None, hidden=False, x=2.5) == '<td x="2.5">1a<br/></td>'
    assert join("<", 3) == "&lt;3"
    assert (number(2.0), number(0.126), number(100.0)) == ("2", "0.13", "100")
