"""Clinical notes: CSV in the shape of MIMIC-III's NOTEEVENTS or of MIMIC-IV-Note → one document a row.

Rows are assembled line by line and only then parsed, so a row with broken quoting is found by its number of columns, counted, and left
behind at the next line that starts a good row. Patients appear as salted hashes only.
"""

import csv
import io
import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import IO, Any

from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseDiskReader

from biolm.core.errors import DataError
from biolm.corpus.document import DROPPED, build, damaged
from biolm.corpus.note_text import note_sections
from biolm.corpus.records import blocks
from biolm.corpus.streams import opened

FIELDS = {
    "id": ("row_id", "note_id"),
    "patient": ("subject_id",),
    "text": ("text",),
    "category": ("category", "note_type"),
    "description": ("description",),
    "date": ("chartdate", "charttime"),
    "error": ("iserror",),
}
MOST = 16 << 20  # bytes in one row
YEAR = re.compile(r"\d{4}")


def patient_hash(salt: str, patient: str) -> str:
    """A patient as 16 hexadecimal digits of keyed BLAKE2b: the same patient gives the same digits, the digits give no patient."""
    return blake2b(patient.encode(), key=blake2b(salt.encode(), digest_size=32).digest(), digest_size=8).hexdigest()


class NotesReader(BaseDiskReader):  # type: ignore[misc]
    """Reads notes as a datatrove reader; see `BaseDiskReader` for the other arguments.

    Args:
        data_folder: Where the files are.
        salt: Key of the patients' hashes.
        columns: Field (`id`, `patient`, `text`, `category`, `description`, `date`, `error`) → name of its column, where it is not MIMIC's.
    """

    name = "notes"

    def __init__(self, data_folder: Any, salt: str, columns: dict[str, str] | None = None, **kwargs: Any):
        super().__init__(data_folder, **kwargs)
        self.salt, self.columns = salt, columns or {}

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Every row of one CSV file, compressed or not."""
        with opened(self.data_folder, filepath) as stream:
            where: dict[str, int] = {}
            for line, row in rows(stream):
                if not where and isinstance(row, list):
                    where = self._columns(row, filepath)
                elif isinstance(row, str):
                    yield damaged("notes", filepath, f"line {line}, {row}")
                else:
                    yield self._note({field: row[i] for field, i in where.items()}, filepath, line)

    def _columns(self, header: list[str], file: str) -> dict[str, int]:
        """Field → position of its column."""
        names = [name.strip().lower() for name in header]
        where = {}
        for field, candidates in FIELDS.items():
            wanted = (self.columns[field].lower(),) if field in self.columns else candidates
            position = next((names.index(name) for name in wanted if name in names), None)
            if position is not None:
                where[field] = position
            elif field == "text" or field in self.columns:
                raise DataError(
                    f"there is no column `{wanted[0]}` (there are: {', '.join(names[:20])})",
                    file=file,
                    record="line 1",
                    remedy='Name the columns with --note_columns, such as \'{"text": "note", "patient": "mrn"}\'.',
                )
        return where

    def _note(self, row: dict[str, str], file: str, line: int) -> Document:
        number = row.get("id", "").strip()
        metadata: dict[str, Any] = {"source": "notes"}
        if patient := row.get("patient", "").strip():
            metadata["patient"] = patient_hash(self.salt, patient)
        for field in ("category", "description"):
            if value := row.get(field, "").strip():
                metadata[field] = value
        if year := YEAR.match(row.get("date", "").strip()):
            metadata["year"] = int(year[0])
        metadata["links"] = []
        if row.get("error", "").strip() not in ("", "0"):
            metadata[DROPPED] = "marked as an error"
        return build(f"note:{number}" if number else f"text:{file}:{line}", note_sections(row["text"]), metadata)


def rows(stream: IO[bytes]) -> Iterator[tuple[int, list[str] | str]]:
    """Cut a CSV stream into rows.

    Yields:
        `(line, row)`: the line the row starts on and its fields, or what is wrong with it. The first good row is the header and
        says how many fields every row has.
    """
    assembler = _Assembler()
    rest = b""
    for block in blocks(stream):
        if isinstance(block, str):
            yield from assembler.finish()
            yield assembler.line, block
            return
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield from assembler.feed(line + b"\n")
        if len(rest) > MOST:
            yield assembler.line, "too long"
            rest = b""
    if rest:
        yield from assembler.feed(rest)
    yield from assembler.finish()


class _Assembler:
    """Joins lines into rows: a row ends where its quotes are balanced."""

    def __init__(self) -> None:
        self.line = 1
        self.pending: list[bytes] = []
        self.quotes = self.size = self.width = 0
        self.lost = False

    def feed(self, line: bytes) -> Iterator[tuple[int, list[str] | str]]:
        queue = [line]
        while queue:
            line = queue.pop(0)
            if not self.pending and (self.lost or not line.strip()) and not self._starts(line):
                self.line += 1
                continue
            self.pending.append(line)
            self.quotes += line.count(b'"')
            self.size += len(line)
            if self.quotes % 2 == 0 or self.size > MOST:
                queue[:0] = yield from self._row()

    def finish(self) -> Iterator[tuple[int, list[str] | str]]:
        """What is left when the stream ends."""
        while self.pending:
            for line in (yield from self._row()):
                yield from self.feed(line)

    def _row(self) -> Any:
        """Try the pending lines as a row; on failure give back all but the first, to be read again."""
        fields = parse_row(b"".join(self.pending)) if self.quotes % 2 == 0 and self.size <= MOST else None
        start, lines = self.line, self.pending
        self.pending, self.quotes, self.size = [], 0, 0
        if fields is not None and (not self.width or len(fields) == self.width):
            self.width = self.width or len(fields)
            self.lost = False
            self.line += len(lines)
            yield start, fields
            return []
        if not self.lost:
            yield start, "broken quoting"
        self.lost = True
        self.line += 1
        return lines[1:]

    def _starts(self, line: bytes) -> bool:
        """Whether a line looks like the start of a row: a first field that is a number or an id, and enough commas."""
        return (
            bool(line.strip())
            and (not self.width or bool(ROW_START.match(line)))
            and line.count(b",") >= self.width - 1
        )


ROW_START = re.compile(rb'"?[\w-]+"?,')


def parse_row(data: bytes) -> list[str] | None:
    """One CSV row; None if it is not exactly one."""
    text = data.decode("utf-8", errors="replace")
    try:
        found = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        return None
    return found[0] if len(found) == 1 else None
