"""How the fields of a delimited row are parted and quoted, and what columns hold: by this a row is known behind damage."""

import csv
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

FEW = 8  # rows, too few to know by them what columns hold
# What a field without quotes holds (a smaller one may stand where a greater one does):
EMPTY, NUMBER, CODE, TEXT = range(4)
# and a field in quotes, which it needs for what stands in it, or does not.
NEEDED, ALWAYS = range(4, 6)
QUOTED = frozenset((NEEDED, ALWAYS))
NUMERIC = re.compile(r"[-+.,:/ T]*\d[-+\d.,:/ TZ]*")


class Row(NamedTuple):
    """A good row.

    Args:
        line: The line it starts on, from 1.
        fields: Its fields.
        lines: What it was read from.
        grammar: What read it.
        certain: A field of it is quoted and not empty, and no quote stands in another place; False where this was not looked at.
    """

    line: int
    fields: list[str]
    lines: list[str]
    grammar: "Grammar"
    certain: bool = False


class Grammar:
    """Split rows into fields by a delimiter and a manner of quoting.

    Args:
        delimiter: What stands between fields.
        backslash: A quote inside quotes has a backslash in front, where it is not doubled.
    """

    def __init__(self, delimiter: str, backslash: bool):
        self.delimiter, self.backslash = delimiter, backslash
        inner = r'[^"\\]*(?:(?:\\.|"")[^"\\]*)*' if backslash else r'[^"]*(?:""[^"]*)*'
        part = re.escape(delimiter)
        field = rf'(?:"({inner})"|([^"{part}\r\n]*))'
        self.field = re.compile(field, re.S)
        self.row = re.compile(rf"{field}(?:{part}{field})*\r?\n?", re.S)

    def reader(self, lines: Iterable[str]) -> Any:
        """Make a `csv.reader` of this grammar."""
        return csv.reader(
            lines, delimiter=self.delimiter, escapechar="\\" if self.backslash else None, strict=True
        )  # fmt: skip

    def fields(self, raw: str) -> Iterator[tuple[str, bool, bool]]:
        """Yield the leading fields of a row, up to the first that neither a delimiter nor the row's end closes.

        Yields:
            `(field, quoted, goes_on)`: its text, whether it stands in quotes, and whether a delimiter follows.
        """
        at, goes_on = 0, True
        while goes_on and (match := self.field.match(raw, at)) is not None:
            following = raw[match.end() : match.end() + 1]
            if following not in ("", "\r", "\n", self.delimiter):
                return
            goes_on = following == self.delimiter
            yield (match[2] if match[1] is None else self._plain(match[1])), match[1] is not None, goes_on
            at = match.end() + 1

    def strictly(self, raw: str) -> list[tuple[str, bool]]:
        """Return the fields of exactly one row, and whether each is quoted; none if a quote stands where RFC 4180 has none."""
        return [(field, quoted) for field, quoted, _ in self.fields(raw)] if self.row.fullmatch(raw) else []

    def unescaped(self, fields: list[str], lines: list[str]) -> list[str]:
        """Restore in a row's fields the backslashes that stand for themselves: the `csv.reader` that read `lines` takes all away."""
        if not self.backslash or not any("\\" in line for line in lines):
            return fields
        return [field for field, _ in self.strictly("".join(lines))]

    def _plain(self, inner: str) -> str:
        if self.backslash and "\\" in inner:
            return re.sub(r'""|\\(["\\])', lambda match: match[1] or '"', inner)
        return inner.replace('""', '"')


class Profile:
    """Learn from good rows what the columns hold.

    Args:
        width: How many columns there are.
        delimiter: What stands between them.
    """

    def __init__(self, width: int, delimiter: str):
        self.special = re.compile(rf'["\r\n{re.escape(delimiter)}]')
        self.seen = 0
        self.columns: list[set[int]] = [set() for _ in range(width)]
        self.astray = 0  # rows with a quote inside a field that is not quoted

    def learn(self, row: Row) -> None:
        """Add a good row to the profile."""
        fields = row.grammar.strictly("".join(row.lines))
        self.seen += 1
        self.astray += len(fields) != len(self.columns)
        for kinds, (field, quoted) in zip(self.columns, fields, strict=False):
            kinds.add(self._kind(field, quoted))

    @property
    def loose(self) -> bool:
        """Whether a quote may stand inside a field that is not quoted: no field is, or it is so in a tenth of the rows."""
        return 10 * self.astray > self.seen or all(kinds.isdisjoint(QUOTED) for kinds in self.columns)

    def fits(self, fields: Iterable[tuple[str, bool]]) -> bool:
        """Return whether leading fields, each with whether it is quoted, are like what was seen in their columns."""
        return self.seen < FEW or all(
            self._like(self._kind(*field), kinds, opens)
            for field, kinds, opens in zip(fields, self.columns, (True, *[False] * len(self.columns)), strict=False)
        )

    def _like(self, kind: int, kinds: set[int], opens: bool) -> bool:
        if kind == EMPTY:
            return EMPTY in kinds or not opens
        if kind in QUOTED:
            return NEEDED in kinds or kind in kinds
        if NEEDED in kinds and ALWAYS not in kinds:
            return True
        greatest = max(kinds - QUOTED, default=EMPTY)
        return kind <= greatest or (not opens and greatest == CODE)  # what holds words may hold blanks

    def _kind(self, field: str, quoted: bool) -> int:
        if not field:
            return EMPTY
        if quoted:
            return NEEDED if self.special.search(field) else ALWAYS
        return NUMBER if NUMERIC.fullmatch(field) else TEXT if any(map(str.isspace, field)) else CODE


def ends_in_a_stray_quote(fields: list[str], lines: list[str]) -> bool:
    """Return whether a row's last field has a closing quote without an opening one."""
    return fields[-1:] != [] and fields[-1][-1:] == '"' and sum(line.count('"') for line in lines) % 2 == 1
