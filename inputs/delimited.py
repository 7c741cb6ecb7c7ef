"""Rows of CSV files and the like: parted by commas, tabs, semicolons or bars, quotes doubled (RFC 4180) or behind a backslash.

The `csv` module reads what is good. Where it fails, or finds another number of fields than the header has, the lines in question are
read again, and the table goes on at the next line that starts a row for certain or in all likelihood:

- A row with a quoted field that is not empty, and with no quote in any other place, is certain: inside a quoted text all quotes are
  doubled, so no line of one can look like that, and with opening and closing quotes taken for each other a text's first letter stands
  behind a closing quote.
- A row without one is likely if its columns hold what they held in earlier rows and the next line begins like a row, too.

The row in front of damage is looked at again, for a quote that is missing may only show in the row behind.
"""

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from biomlm.core.errors import DataError
from biomlm.inputs.encodings import TOO_LONG, Foreign, Problem, Unreadable, text_lines
from biomlm.inputs.quoting import Grammar, Profile, Row, ends_in_a_stray_quote
from biomlm.inputs.xml import MOST

DELIMITERS = ",\t;|"
IN_QUOTES = re.compile(r'"[^"]*"?')
BROKEN, ENCODING = "broken quoting", "neither UTF-8 nor cp1252"
SAMPLE = 256  # rows by which it is known what the columns hold

csv.field_size_limit(MOST)


class _Lines:
    """Read the lines of a stream, which can be looked at before they are taken, and given back."""

    def __init__(self, stream: IO[bytes]):
        self.source = text_lines(stream)
        self.ahead: deque[str] = deque()
        self.number = 1  # of the next line
        self.odd = False  # whether a line was no UTF-8

    def take(self, into: list[str]) -> Iterator[str]:
        """Take lines up to a `Problem` and append them to `into`."""
        while True:
            line = self.ahead.popleft() if self.ahead else next(self.source, None)
            if line is None:
                return
            if type(line) is not str:
                if type(line) is Problem:
                    self.ahead.appendleft(line)
                    return
                self.odd = True
            into.append(line)
            yield line

    def give_back(self, lines: list[str]) -> None:
        """Put lines in front of the next one."""
        self.ahead.extendleft(reversed(lines))
        self.number -= len(lines)

    def drop(self, count: int) -> list[str]:
        """Take `count` lines."""
        self.number += count
        return [self.ahead.popleft() for _ in range(count)]

    def peek(self, place: int) -> str | None:
        """Return the line that stands `place` lines behind the next one; None at the end of the stream and at a `Problem`."""
        while len(self.ahead) <= place and not (self.ahead and type(self.ahead[-1]) is Problem):
            line = next(self.source, None)
            if line is None:
                return None
            self.ahead.append(line)
            self.odd |= type(line) is not str
        line = self.ahead[place] if place < len(self.ahead) else None
        return None if type(line) is Problem else line

    def from_place(self, place: int) -> Iterator[str]:
        """Yield the lines from `place` on, no more than a record may have bytes."""
        size = 0
        while size <= MOST and (line := self.peek(place)) is not None:
            yield line
            place, size = place + 1, size + len(line)

    def problem(self) -> str:
        """Take the problem that stands next and return it; empty at the end of the stream."""
        if not self.ahead:
            return ""
        assert type(self.ahead[0]) is Problem
        return self.ahead.popleft()


@dataclass
class _Lost:
    """Rows that are lost, by the lines on which they begin."""

    lines: list[int]


class Table:
    """Read a stream of delimited rows, whose header says how many fields every row has.

    Args:
        stream: The decompressed file.
        file: Its name, for errors.

    Raises:
        DataError: The header cannot be read.
    """

    def __init__(self, stream: IO[bytes], file: str | Path):
        self.lines = _Lines(stream)
        skipped = 0
        while (line := self.lines.peek(skipped)) is not None and not line.strip():
            skipped += 1
        self.lines.drop(skipped)
        counted = IN_QUOTES.sub("", line or "")
        delimiter = max(DELIMITERS, key=counted.count)  # the first of those that are equal
        self.grammars = [
            Grammar(delimiter, False),
            Grammar(delimiter, True),
        ]  # the one that read the last row is the first
        self.header: list[str] = []
        if line is not None:
            self.header = self._header(file)
        self.blank: list[str] = []  # lines behind the last good row
        self.profile = Profile(len(self.header), delimiter)

    def _header(self, file: str | Path) -> list[str]:
        taken: list[str] = []
        try:
            header: list[str] = next(self.grammars[0].reader(self.lines.take(taken)))
        except csv.Error:
            problem = "the header cannot be read as names of columns"
            remedy = "Mend its quotes; commas, tabs, semicolons or bars stand between the names."
            raise DataError(problem, file=file, record=f"line {self.lines.number}", remedy=remedy) from None
        self.lines.number += len(taken)
        return header

    def rows(self) -> Iterator[tuple[int, list[str] | str, bool]]:
        """Yield every row behind the header.

        Yields:
            `(line, row, foreign)`: the line it starts on, its fields or what is wrong with it, and whether it was read as cp1252. Of
            lines that belong to no good row, each that begins like one counts as one that is lost, and they count as one at least.
        """
        held: Row | None = None  # until it is known that no damage stands behind it
        while True:
            bad: list[str] = []
            for row in self._good(bad):
                if held is not None:
                    yield self._output(held)
                held = row
            if not bad:
                if held is not None:
                    yield self._output(held)
                held = None
                if not (problem := self.lines.problem()):
                    return
                yield self.lines.number, str(problem), False
                if problem != TOO_LONG:
                    return
                self.lines.number += 1
                continue
            self.lines.number += len(bad)
            self.lines.give_back(bad)
            resumed = self._resumed(held)
            self.blank.clear()
            held = resumed[-1] if isinstance(resumed[-1], Row) else None
            if held is not None:
                resumed.pop()
            for item in resumed:
                if isinstance(item, Row):
                    yield self._output(item)
                else:
                    yield from ((line, BROKEN, False) for line in item.lines)

    def _good(self, bad: list[str]) -> Iterator[Row]:
        """Yield the rows up to the first that is not good, whose lines are left in `bad`."""
        grammar, width, profile = self.grammars[0], len(self.header), self.profile
        try:
            for fields in grammar.reader(self.lines.take(bad)):
                lines = bad[:]
                if len(lines) == 1 and not lines[0].strip(" \r\n"):
                    self.lines.number += 1
                    self.blank += lines
                    bad.clear()
                    continue
                if len(fields) != width or ends_in_a_stray_quote(fields, lines):
                    return
                if any('"' in field for field in fields) and not (
                    profile.loose or grammar.row.fullmatch("".join(lines))
                ):
                    return
                row = Row(self.lines.number, grammar.unescaped(fields, lines), lines, grammar)
                if len(row.fields) != width:
                    return
                self.lines.number += len(lines)
                bad.clear()
                self.blank.clear()
                if profile.seen < SAMPLE:
                    profile.learn(row)
                yield row
        except csv.Error:
            return

    def _resumed(self, held: Row | None) -> list[Row | _Lost]:
        """Find where the table goes on behind a row that is not good; its lines are the next ones.

        Args:
            held: The row in front of it.

        Returns:
            What stands there, in order: the held row if it is good, lines that are lost, and the row that the table goes on with, if any.
        """
        before = 0
        if held is not None:  # and none of its lines is given out yet
            self.profile.learn(held)
            self.lines.give_back(held.lines + self.blank)
            before = len(held.lines) + len(self.blank)
            longer = self._row(0, read="".join(held.lines))
            if longer is not None and len(longer.lines) > before:
                return [self._taken(longer)]
            for place in range(1, before):
                row = self._row(place)
                if row is not None and row.certain and self._fits(row):  # a quote of the held row is missing
                    return [_Lost(self._lost(place)), self._taken(row)]
        next_row, place, size, lost = self._start(before), before, 0, list[int]()
        passed: list[Row | _Lost] = []
        while next_row is None and (line := self.lines.peek(place)) is not None:
            place, size = place + 1, size + len(line)
            if size > MOST:  # too much to be kept in memory
                passed += [] if held is None else [held]
                self.lines.drop(before)
                lost += self._lost(place - before, begun=bool(lost))
                held, before, place, size = None, 0, 0, 0
            next_row = self._start(place)
        if held is not None and place > before and self._lacks_a_quote(held, before, place):
            held, before = None, 0
        if held is not None:
            self.lines.drop(before)
            passed.append(held)
        if place > before:
            lost += self._lost(place - before, begun=bool(lost))
        passed += [_Lost(lost)] if lost else []
        return passed if next_row is None else [*passed, self._taken(next_row)]

    def _lost(self, count: int, begun: bool = False) -> list[int]:
        """Take lines that belong to no good row.

        Args:
            count: How many.
            begun: A row has begun before them.

        Returns:
            The lines on which rows begin: the first, if none has begun, and each that begins like one.
        """
        first = self.lines.number
        return [
            first + place
            for place, line in enumerate(self.lines.drop(count))
            if not (place or begun) or (line.strip(" \r\n") and self._opens(line))
        ]

    def _taken(self, row: Row) -> Row:
        row = row._replace(line=self.lines.number)
        self.lines.drop(len(row.lines))
        self.grammars.sort(key=lambda grammar: grammar is not row.grammar)
        return row

    def _row(self, place: int, read: str = "") -> Row | None:
        """Return the good row that starts at a place, by the first grammar that reads it.

        Args:
            place: How far behind the next line.
            read: What the first grammar has read there, if it is not to be asked again.
        """
        for grammar in self.grammars[1:] if read else self.grammars:
            if grammar is not self.grammars[0] and grammar.backslash and '\\"' not in read:
                continue
            taken = _Noted(self.lines.from_place(place))
            try:
                fields = next(grammar.reader(taken), None)
            except csv.Error:
                fields = None
            raw = read = "".join(taken.lines)
            if fields is None or not raw.strip():
                continue
            parts = grammar.strictly(raw)
            if len(parts) == len(self.header):
                certain = any(quoted and field.strip().strip('"') for field, quoted in parts)
                return Row(0, [field for field, _ in parts], taken.lines, grammar, certain)
            wide = len(fields) == len(self.header) and not ends_in_a_stray_quote(fields, taken.lines)
            if wide and self.profile.loose and not grammar.backslash:
                return Row(0, fields, taken.lines, grammar)
        return None

    def _start(self, place: int) -> Row | None:
        """Return the row that starts at a place, if the table may go on with it."""
        row = self._row(place)
        if row is None or row.certain:
            return row
        return row if self._fits(row) and self._begins(place + len(row.lines)) else None

    def _fits(self, row: Row) -> bool:
        """Return whether a row's columns hold what they held before."""
        parts = row.grammar.strictly("".join(row.lines))
        return self.profile.fits(parts or [(field, False) for field in row.fields])

    def _begins(self, place: int) -> bool:
        """Return whether a row begins at a place, be it good or not, or the table ends there."""
        line = self.lines.peek(place)
        while line is not None and not line.strip():
            place += 1
            line = self.lines.peek(place)
        return line is None or self._opens(line) or self._row(place) is not None

    def _opens(self, line: str, most: int = 2) -> bool:
        """Return whether a line's first fields are like those of a row: `most` of them, but never the last."""
        enough = min(most, len(self.header) - 1)
        parts = self.grammars[0].fields(line)
        fields = [(field, quoted) for field, quoted, goes_on in islice(parts, enough) if goes_on]
        return len(fields) == enough > 0 and self.profile.fits(fields)

    def _lacks_a_quote(self, row: Row, start: int, stop: int) -> bool:
        """Return whether a row and the lines from `start` to `stop` are one row, of whose last field the opening quote is missing."""
        first = self.lines.peek(start)
        if first is None or self._opens(first, 1):
            return False
        raw, head, last = "".join(islice(self.lines.ahead, stop)), "".join(row.lines).rstrip("\r\n"), row.fields[-1]
        at = len(head) - len(last)
        return (
            bool(last) and head[at:] == last and len(row.grammar.strictly(f'{raw[:at]}"{raw[at:]}')) == len(self.header)
        )

    def _output(self, row: Row) -> tuple[int, list[str] | str, bool]:
        """Return a row as `rows` yields it."""
        kinds = {type(line) for line in row.lines} if self.lines.odd else set()
        return row.line, ENCODING if Unreadable in kinds else row.fields, Foreign in kinds


def exact_rows(stream: IO[bytes], *, tabs: bool) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the first line and the fields of every row that is not empty, without a guess, up to the first damage.

    Args:
        stream: The decompressed file, in UTF-8.
        tabs: Tabs part the fields, and a quotation mark is a character like others; otherwise commas, and quotes are RFC 4180's.

    Yields:
        In place of the fields, last, what is wrong with them.
    """
    lines = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    dialect: Any = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    reader = csv.reader(lines, strict=True, **dialect)
    first = 1
    try:
        for row in reader:
            if row:
                yield first, row
            first = reader.line_num + 1
    except csv.Error as error:
        yield first, f"no valid table ({error})"


class _Noted:
    """Iterate over lines and keep those that were asked for."""

    def __init__(self, lines: Iterator[str]):
        self.source, self.lines = lines, list[str]()

    def __iter__(self) -> "_Noted":
        return self

    def __next__(self) -> str:
        line = next(self.source)
        self.lines.append(line)
        return line
