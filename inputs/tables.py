"""Tables of records: CSV and the like, JSONL, JSON arrays and Parquet, row by row, as dictionaries.

One reader under two rules, for two kinds of table are read here:

- What hospitals export (`rows`): delimiters, quotes and encodings are found out, and damage costs the rows it is in, which are told.
- Labelled data (`whole_rows`): every row counts, so the first that is damaged is refused; the text is UTF-8, the suffix says what parts the
  fields, and a quotation mark in a TSV is a character.

Rows are named by the line they begin on, from 1, and columns by the first row, in which no name stands twice.
"""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson

from biomlm.core.errors import DataError
from biomlm.inputs.delimited import ENCODING, Table, exact_rows
from biomlm.inputs.encodings import CP1252, Foreign, Problem, Unreadable, chunks, decoded, utf8_blocks
from biomlm.inputs.streams import bare_name, read_text
from biomlm.inputs.xml import MOST

JSON_LINES = (".jsonl", ".ndjson")
NO_OBJECT = "no JSON object"
NO_ARRAY = "no JSON array"


class Row(NamedTuple):
    """A row of a table.

    Args:
        where: Where it is.
        fields: Its fields, or what is wrong with it.
        encoding: What it was read as, where that is not Unicode.
    """

    where: str
    fields: dict[str, Any] | str
    encoding: str = ""


def rows(stream: IO[bytes], filepath: str) -> Iterator[Row]:
    """Yield every row of a table, by the file's suffix; those that are damaged with what is wrong with them.

    Args:
        stream: The decompressed file.
        filepath: Its name.

    Raises:
        DataError: A header that cannot be read, or has a name twice; a Parquet file without pyarrow to read it, or in a compressed file;
            a JSON array that is too long to be held in memory.
    """
    name = bare_name(filepath)
    before = getattr(stream, "lines_before", 0)  # of a slice
    if name.endswith(".parquet"):
        return _parquet(stream, filepath)
    if name.endswith(".json"):
        return _array(stream, filepath)
    if name.endswith(JSON_LINES):
        return (Row(f"line {before + line}", fields, encoding) for line, fields, encoding in _jsonl(stream))
    table = Table(stream, filepath)
    names = _names(table.header, filepath)
    return (
        Row(
            f"line {before + line}",
            row if isinstance(row, str) else dict(zip(names, row, strict=True)),
            CP1252 if foreign else "",
        )
        for line, row, foreign in table.rows()
    )


def whole_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line and the fields of every row of a table that must be whole, by the suffix: JSON lines, `.tsv`, else CSV.

    Raises:
        DataError: The file cannot be read, a row is damaged or has another number of fields than the first, or two columns have one name.
    """
    if bare_name(path.name).endswith(JSON_LINES):
        yield from whole_objects(path)
        return
    lists = whole_lists(path)
    _, header = next(lists, (0, []))
    names = _names(header, path)
    for line, row in lists:
        if len(row) != len(names):
            raise _refused(path, line, f"a row with not as many fields as the head line's {len(names)}")
        yield line, dict(zip(names, row, strict=True))


def whole_lists(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the fields of every row of a CSV or TSV that must be whole, the head line included if it has one.

    Raises:
        DataError: The file cannot be read, or a row is damaged.
    """
    for line, row in exact_rows(_utf8(path), tabs=bare_name(path.name).endswith(".tsv")):
        if isinstance(row, str):
            raise _refused(path, line, row)
        yield line, row


def whole_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line and the object of every line of JSON that is not empty, of a file that must be whole.

    Raises:
        DataError: The file cannot be read, or a line is no object.
    """
    for line, fields, _ in _jsonl(_utf8(path)):
        if isinstance(fields, str):
            raise _refused(path, line, fields, "Write one object a line.")
        yield line, fields


def _utf8(path: Path) -> IO[bytes]:
    return io.BytesIO(read_text(path).encode())


def _refused(path: Path, line: int, problem: str, remedy: str = "Mend that line.") -> DataError:
    return DataError(f"this is {problem}", file=path, record=f"line {line}", remedy=remedy)


def _names(header: Iterable[str], file: str | Path) -> list[str]:
    """Return the names of a table's columns."""
    names = [name.strip() for name in header]
    if len(set(filter(None, names))) < len(list(filter(None, names))):  # which is told without it: it may be a note's
        raise DataError(
            f"two columns of the {len(names)} in the first row have the same name",
            file=file,
            remedy="The first line names the columns: write it if it is missing, or rename one of the two.",
        )
    return names


def _jsonl(stream: IO[bytes]) -> Iterator[tuple[int, dict[str, Any] | str, str]]:
    """Yield the line, the object or what is wrong with it, and the encoding of every line that is not empty."""
    number = 0
    for chunk in chunks(stream):
        if isinstance(chunk, Problem):
            number += 1
            yield number, str(chunk), ""
            continue
        for line in io.BytesIO(chunk):
            number += 1
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError:
                if line.strip():
                    yield number, *_mended(decoded(line))
                continue
            yield number, value if isinstance(value, dict) else NO_OBJECT, ""


def _array(stream: IO[bytes], filepath: str) -> Iterator[Row]:
    """Yield the objects of a JSON array, which is read as a whole."""
    data = b""
    for block in utf8_blocks(stream):
        if isinstance(block, str):
            yield Row(f"byte {len(data)}", block)
            return
        data += block
        if len(data) > MOST:
            problem = f"a JSON array of over {MOST >> 20} MB"
            raise DataError(problem, file=filepath, remedy="Write JSON lines (.jsonl): `jq -c '.[]'` does.")
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError:
        values = None
    if not isinstance(values, list):
        yield Row("byte 0", NO_ARRAY)
        return
    for number, value in enumerate(values, start=1):
        yield Row(f"item {number}", value if isinstance(value, dict) else NO_OBJECT)


def _mended(line: str) -> tuple[dict[str, Any] | str, str]:
    """Read a line that is no JSON in UTF-8 as JSON in cp1252."""
    if not isinstance(line, Foreign):
        return ENCODING if isinstance(line, Unreadable) else NO_OBJECT, ""
    try:
        value = orjson.loads(str(line))
    except orjson.JSONDecodeError:
        return NO_OBJECT, ""
    return (value, CP1252) if isinstance(value, dict) else (NO_OBJECT, "")


def _parquet(stream: IO[bytes], filepath: str) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException  # type: ignore[import-not-found,unused-ignore]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise DataError("Parquet needs pyarrow", file=filepath, remedy="pip install pyarrow.") from None
    if not hasattr(stream, "seek"):
        raise DataError("Parquet is not read from a compressed file", file=filepath, remedy="Unpack it.")
    number = 0
    try:
        for batch in ParquetFile(stream).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield Row(f"row {number}", row)
    except (ArrowException, OSError):
        yield Row(f"row {number + 1}", "damaged Parquet")
