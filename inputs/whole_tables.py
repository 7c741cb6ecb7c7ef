"""Tables that must be whole, as labelled data are: CSV, TSV and JSONL in UTF-8, where the first damaged row ends the reading.

`inputs.tables` reads what thousands of hospitals export: it guesses delimiters and encodings, and damage costs only its rows. That would be
wrong here, where each row counts and a quotation mark in a TSV is a character.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from biomlm.core.errors import DataError
from biomlm.inputs.streams import bare_name, read_text


def rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the last line and the fields of every row that is not empty, by the file's suffix: `.jsonl`, `.tsv`, else CSV.

    Raises:
        DataError: The file cannot be read, or a row breaks its rules or has another number of fields than the head line.
    """
    if bare_name(path.name).endswith(".jsonl"):
        yield from json_lines(path)
        return
    lists = fields(path)
    _, names = next(lists, (0, []))
    for line, row in lists:
        if len(row) != len(names):
            problem = f"not as many fields as the head line's {len(names)}"
            raise DataError(problem, file=path, record=f"line {line}", remedy="Mend that line.")
        yield line, dict(zip(names, row, strict=True))


def fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the last line and the fields of every row that is not empty, the head line included, by the suffix: `.tsv`, else CSV.

    Raises:
        DataError: The file cannot be read, or a row breaks the rules of such files; it is named by its first line.
    """
    text = read_text(path)
    csv.field_size_limit(
        max(csv.field_size_limit(), len(text) + 1)
    )  # a document may be longer than the module's 128 KiB
    stream = io.StringIO(text, newline="")
    if bare_name(path.name).endswith(".tsv"):
        reader = csv.reader(stream, dialect="excel-tab", quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.reader(stream, strict=True)
    begin = 1
    try:
        for row in reader:
            begin = reader.line_num + 1
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        problem = f"this is no valid table ({error})"
        raise DataError(problem, file=path, record=f"line {begin}", remedy="Mend that line.") from None


def json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the line and the object of every line that is not empty.

    Raises:
        DataError: The file cannot be read, or a line is no object.
    """
    for line, raw in enumerate(read_text(path).split("\n"), start=1):
        if raw.strip():
            try:
                row = orjson.loads(raw)
            except orjson.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                remedy = "Write one object a line."
                raise DataError("this is no JSON object", file=path, record=f"line {line}", remedy=remedy)
            yield line, row
