"""Write HTML and SVG as nested calls: `tag("p", "a < b")` escapes; only what `tag` made is taken as markup."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

STYLE = Path(__file__).with_name("page.css")
VOID = {"meta", "br", "line", "path", "rect", "circle", "polyline"}


class Markup(str):
    """Text that is already HTML: made by `tag` and `join` alone."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]


def join(*children: Child) -> Markup:
    """Concatenate children: strings and numbers are escaped, None is nothing."""
    return Markup("".join(_html(child) for child in children))


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """Build an element.

    Args:
        name: Its tag.
        children: Text (escaped), `Markup`, numbers, None, or lists of them.
        attributes: `class_` is class, other underscores become hyphens; None and False leave the attribute out.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        text = number(value) if isinstance(value, float) else str(value)
        parts.append(f'{key.rstrip("_").replace("_", "-")}="{escape(text, quote=True)}"')
    if name in VOID and not children:
        return Markup(f"<{' '.join(parts)}/>")
    return Markup(f"<{' '.join(parts)}>{join(*children)}</{name}>")


def document(title: str, body: Markup) -> str:
    """Build a whole page with its style sheet in it, so that it can be mailed as one file."""
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(STYLE.read_text(encoding="utf-8"))),
    )
    return f"<!doctype html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n"


def table(heads: Sequence[str], rows: Sequence[Sequence[Child]], *, text: int) -> Markup:
    """Build a table whose first `text` columns are words and the others numbers."""

    def kind(i: int) -> str | None:
        return "num" if i >= text else None

    top = tag("tr", [tag("th", head, class_=kind(i)) for i, head in enumerate(heads)])
    body = [tag("tr", [tag("td", cell, class_=kind(i)) for i, cell in enumerate(row)]) for row in rows]
    return tag("div", tag("table", tag("thead", top), tag("tbody", body)), class_="wide")


def number(value: float) -> str:
    """Format a coordinate with two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _html(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return str(child)
    if isinstance(child, (str, int, float)):
        return escape(str(child), quote=True)
    return join(*child)
