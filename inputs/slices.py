"""Slices of a big table, which several tasks read at once: each begins where a row does for certain.

That is a row with a quoted field that is not empty and no quote in any other place (`delimited` says why no line inside a text looks like
that), so no count of quotes from the file's start is needed, which damage would put out of step. JSON lines begin at any line.
"""

import io
import re
from itertools import pairwise
from pathlib import Path
from typing import IO, NamedTuple, cast

from biomlm.inputs.delimited import Table
from biomlm.inputs.quoting import Grammar
from biomlm.inputs.search import count
from biomlm.inputs.streams import BLOCK, COMPRESSIONS, Decompressed, bare_name, compression
from biomlm.inputs.xml import blocks

LEAST = 8 << 20  # bytes between two places where a slice may begin
MOST = 16  # slices of a file: of one that is compressed, each task unpacks all that stands in front of its own
PATIENCE = 8  # blocks without a place for a slice to begin, after which none is looked for
HEAD = 1 << 16  # bytes by which a table's header is known
JSON_OBJECT = re.compile(rb"\n(?=[ \t\r]*\{)")
LINE_END = re.compile(r"\n(?!$)")


class Slice(NamedTuple):
    """A stretch of a decompressed table.

    Args:
        header: Bytes of the header, which every slice is read behind.
        start: Where its first row begins.
        stop: Where the next slice's does; -1 for the end of the file.
        lines_before: Lines in front of it, the header's aside.
    """

    header: int
    start: int
    stop: int
    lines_before: int


class Sliced(io.RawIOBase):
    """Read a slice of a stream as a table of its own: the header, then its rows."""

    def __init__(self, stream: IO[bytes], part: Slice):
        self.stream, self.part, self.lines_before = stream, part, part.lines_before
        self.header, self.at = part.header, 0

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes; empty at the end."""
        if self.at < self.header:
            return self._read(min(size, self.header - self.at))
        if self.at < self.part.start and not isinstance(self.stream, Decompressed):
            self.at = self.stream.seek(self.part.start)
        while self.at < self.part.start:
            if not self._read(min(BLOCK, self.part.start - self.at)):
                return b""
        left = size if self.part.stop < 0 else min(size, self.part.stop - self.at)
        return self._read(left) if left else b""

    def _read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.at += len(data)
        return data


def part_of(stream: IO[bytes], part: Slice | None) -> IO[bytes]:
    """Return a slice of a stream, or all of it."""
    return stream if part is None else cast(IO[bytes], Sliced(stream, part))


def slices(path: Path, least: int = LEAST) -> list[Slice]:
    """Divide a table into slices; none if it is small, in no encoding like ASCII, or has no row that is one for certain.

    Args:
        path: CSV, TSV or JSON lines, compressed or not.
        least: Bytes between two places where one may begin.
    """
    inflate = COMPRESSIONS.get(compression(path.name))
    with path.open("rb") as file:
        stream = cast(IO[bytes], Decompressed(file, inflate)) if inflate else file
        begins = _begins(stream, bare_name(path.name).endswith((".jsonl", ".ndjson")), least)
    if len(begins) < 2:
        return []
    chosen = begins if len(begins) <= MOST else [begins[len(begins) * i // MOST] for i in range(MOST)]
    header, lines = begins[0]
    ends = [*chosen, (-1, 0)]
    return [Slice(header, start, stop, before - lines) for (start, before), (stop, _) in pairwise(ends)]


def _begins(stream: IO[bytes], json_lines: bool, least: int) -> list[tuple[int, int]]:
    """Return where slices may begin, each with the number of lines in front of it; the first is where the header ends."""
    begins: list[tuple[int, int]] = []
    grammar, width = None, 0
    at = lines = 0  # of the block
    missed, kept = 0, b""
    for block in blocks(stream):
        if isinstance(block, str):  # damage: the task that comes to it tells
            break
        data = kept + block
        if not begins:
            if len(data) < HEAD:
                kept = data
                continue
            if b"\0" in data[:HEAD]:
                return []
            if json_lines:
                begins.append((0, 0))
            else:
                table = Table(io.BytesIO(data[:HEAD]), "")
                grammar, width = table.grammars[0], len(table.header)
                lines_of_header = table.lines.number - 1
                begins.append((_place_behind(data, lines_of_header), lines_of_header))
        kept = b""
        if at + len(data) - begins[-1][0] > least:
            place = _json_row(data) if grammar is None else _certain_row(data, grammar, width)
            missed = 0 if place >= 0 else missed + 1
            if place >= 0 and at + place > begins[-1][0]:
                begins.append((at + place, lines + count(data[:place], b"\n")))
            elif missed > PATIENCE:
                break
        at, lines = at + len(data), lines + count(data, b"\n")
    return begins


def _place_behind(data: bytes, lines: int) -> int:
    place = 0
    for _ in range(lines):
        place = data.find(b"\n", place) + 1
    return place


def _json_row(data: bytes) -> int:
    match = JSON_OBJECT.search(data)
    return match.end() if match else -1


def _certain_row(data: bytes, grammar: Grammar, width: int) -> int:
    """Return where a line begins in a block that is a row for certain, with all of the row in the block; -1 if none does."""
    text = data.decode("utf-8", "surrogateescape")
    for line_end in LINE_END.finditer(text):
        begin = line_end.end()
        row = grammar.row.match(text, begin)
        if row is None or not row[0].endswith("\n"):
            continue
        parts = grammar.strictly(row[0])
        if len(parts) == width and any(quoted and field.strip().strip('"') for field, quoted in parts):
            return len(text[:begin].encode("utf-8", "surrogateescape"))
    return -1
