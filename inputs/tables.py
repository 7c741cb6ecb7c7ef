"""Tables of records: CSV, JSONL and Parquet, row by row, as dictionaries.

CSV rows are assembled line by line and only then parsed, so a row with broken quoting is found by its number of fields, counted, and
left behind at the next line that starts a good row.
"""

import csv
import io
import re
from collections.abc import Generator, Iterator
from typing import IO, Any

import orjson

from biomlm.core.errors import DataError
from biomlm.inputs.streams import bare_name
from biomlm.inputs.xml import MOST, blocks

ROW_START = re.compile(rb'"?[\w-]+"?,')

Row = tuple[str, dict[str, Any] | str]  # where it is; its fields or what is wrong


def rows(stream: IO[bytes], filepath: str) -> Iterator[Row]:
    """Every row of a table, by the file's suffix.

    Args:
        stream: The decompressed file.
        filepath: Its name.

    Raises:
        DataError: A Parquet file without pyarrow to read it, or one that is damaged.
    """
    name = bare_name(filepath)
    if name.endswith(".parquet"):
        return _parquet(stream, filepath)
    return _jsonl(stream) if name.endswith((".jsonl", ".ndjson")) else _csv(stream)


def _csv(stream: IO[bytes]) -> Iterator[Row]:
    header: list[str] = []
    for line, row in csv_rows(stream):
        if isinstance(row, str):
            yield f"line {line}", row
        elif not header:
            header = [name.strip() for name in row]
        else:
            yield f"line {line}", dict(zip(header, row, strict=True))


def _jsonl(stream: IO[bytes]) -> Iterator[Row]:
    number = 0
    for line in lines(stream):
        number += 1
        if isinstance(line, str):
            yield f"line {number}", line
            continue
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            value = None
        yield f"line {number}", value if isinstance(value, dict) else "not a JSON object"


def _parquet(stream: IO[bytes], filepath: str) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException  # type: ignore[import-not-found,unused-ignore]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise DataError("Parquet needs pyarrow", file=filepath, remedy="pip install pyarrow.") from None
    number = 0
    try:
        for batch in ParquetFile(stream).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
    except (ArrowException, OSError):
        yield f"row {number + 1}", "damaged Parquet"


def lines(stream: IO[bytes]) -> Iterator[bytes | str]:
    """Every line with its line break; a line that is too long, and the end of a damaged stream, as what is wrong."""
    rest, skipping = b"", False
    for block in blocks(stream):
        if isinstance(block, str):
            if rest:
                yield rest
            yield block
            return
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            if not skipping:
                yield line + b"\n"
            skipping = False
        if len(rest) > MOST:
            if not skipping:
                yield "too long"
            rest, skipping = b"", True
    if rest and not skipping:
        yield rest


def csv_rows(stream: IO[bytes]) -> Iterator[tuple[int, list[str] | str]]:
    """Cut a CSV stream into rows.

    Yields:
        `(line, row)`: the line the row starts on and its fields, or what is wrong with it. The first good row says how many fields
        every row has.
    """
    assembler = _Assembler()
    for line in lines(stream):
        if isinstance(line, str):
            yield from assembler.finish()
            yield assembler.line, line
        else:
            yield from assembler.feed(line)
    yield from assembler.finish()


class _Assembler:
    """Joins lines into rows: a row ends where its quotes are balanced."""

    def __init__(self) -> None:
        self.line = 1
        self.pending: list[bytes] = []
        self.quotes = self.size = self.width = 0
        self.lost = False

    def feed(self, line: bytes) -> Iterator[tuple[int, list[str] | str]]:
        """Take one more line; yield what it completes."""
        queue = [line]
        while queue:
            line = queue.pop()
            if not self.pending and (self.lost or not line.strip()) and not self._starts(line):
                self.line += 1
                continue
            self.pending.append(line)
            self.quotes += line.count(b'"')
            self.size += len(line)
            if self.quotes % 2 == 0 or self.size > MOST:
                queue += reversed((yield from self._row()))

    def finish(self) -> Iterator[tuple[int, list[str] | str]]:
        """Yield what is left when the stream ends."""
        while self.pending:
            for line in (yield from self._row()):
                yield from self.feed(line)

    def _row(self) -> Generator[tuple[int, list[str] | str], None, list[bytes]]:
        """Try the pending lines as a row; on failure give back all but the first, to be read again."""
        fields = parse_row(b"".join(self.pending)) if self.quotes % 2 == 0 and self.size <= MOST else None
        start, pending = self.line, self.pending
        self.pending, self.quotes, self.size = [], 0, 0
        if fields is not None and (not self.width or len(fields) == self.width):
            self.width = self.width or len(fields)
            self.lost = False
            self.line += len(pending)
            yield start, fields
            return []
        if not self.lost:
            yield start, "broken quoting"
        self.lost = True
        self.line += 1
        return pending[1:]

    def _starts(self, line: bytes) -> bool:
        """Whether a line looks like the start of a row: a first field that is a number or an id, and enough commas."""
        return bool(ROW_START.match(line)) and line.count(b",") >= self.width - 1


def parse_row(data: bytes) -> list[str] | None:
    """One CSV row; None if it is not exactly one."""
    text = data.decode("utf-8-sig", errors="replace")
    try:
        found = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        return None
    return found[0] if len(found) == 1 else None


csv.field_size_limit(MOST)
