"""Tables of records: CSV and the like, JSONL and Parquet, row by row, as dictionaries. Damage costs the rows it is in."""

import io
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import orjson

from biomlm.core.errors import DataError
from biomlm.inputs.delimited import ENCODING, Table
from biomlm.inputs.encodings import CP1252, Foreign, Problem, Unreadable, chunks, decoded
from biomlm.inputs.streams import bare_name

NO_OBJECT = "not a JSON object"


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
    """Yield every row of a table, by the file's suffix.

    Args:
        stream: The decompressed file.
        filepath: Its name.

    Raises:
        DataError: A header that cannot be read, or has a name twice; a Parquet file without pyarrow to read it, or in a compressed file.
    """
    name = bare_name(filepath)
    if name.endswith(".parquet"):
        return _parquet(stream, filepath)
    return _jsonl(stream) if name.endswith((".jsonl", ".ndjson")) else _csv(stream, filepath)


def _csv(stream: IO[bytes], filepath: str) -> Iterator[Row]:
    table = Table(stream, filepath)
    names = [name.strip() for name in table.header]
    if len(set(filter(None, names))) < len(list(filter(None, names))):  # which is told without it: it may be a note's
        raise DataError(
            f"two columns of the {len(names)} in the first row have the same name",
            file=filepath,
            remedy="The first line names the columns: write it if it is missing, or rename one of the two.",
        )
    for line, row, foreign in table.rows():
        fields = row if isinstance(row, str) else dict(zip(names, row, strict=True))
        yield Row(f"line {line}", fields, CP1252 if foreign else "")


def _jsonl(stream: IO[bytes]) -> Iterator[Row]:
    number = 0
    for chunk in chunks(stream):
        if isinstance(chunk, Problem):
            number += 1
            yield Row(f"line {number}", str(chunk))
            continue
        for line in io.BytesIO(chunk):
            number += 1
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError:
                if line.strip():
                    yield _mended(f"line {number}", decoded(line))
                continue
            yield Row(f"line {number}", value if isinstance(value, dict) else NO_OBJECT)


def _mended(where: str, line: str) -> Row:
    """Read a line that is no JSON in UTF-8 as JSON in cp1252."""
    if not isinstance(line, Foreign):
        return Row(where, ENCODING if isinstance(line, Unreadable) else NO_OBJECT)
    try:
        value = orjson.loads(str(line))
    except orjson.JSONDecodeError:
        return Row(where, NO_OBJECT)
    return Row(where, value, CP1252) if isinstance(value, dict) else Row(where, NO_OBJECT)


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
