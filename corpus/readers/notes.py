"""Clinical notes: tables in the shape of MIMIC-III's NOTEEVENTS or of MIMIC-IV-Note, or any other by a column map → one document a row.

Patients appear as salted hashes only; rows that a clinician marked as an error are put aside.
"""

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseDiskReader

from biomlm.core.errors import DataError
from biomlm.corpus.readers.deid_placeholders import Placeholders
from biomlm.corpus.readers.note_sections import note_sections
from biomlm.corpus.text.dates import iso
from biomlm.corpus.text.document import DROPPED, ENCODING, build, damaged
from biomlm.inputs.streams import opened
from biomlm.inputs.tables import rows
from biomlm.inputs.values import NOT_TEXT, NULL_TEXT, NoTextError, identifier, is_set, scalar, text

FIELDS = {
    "id": ("row_id", "note_id"),
    "patient": ("subject_id",),
    "text": ("text",),
    "category": ("category", "note_type"),
    "description": ("description",),
    "date": ("chartdate", "charttime"),
    "error": ("iserror",),
}


def patient_hash(salt: str, patient: str) -> str:
    """A patient as 16 hexadecimal digits of keyed BLAKE2b: the same patient gives the same digits, the digits give no patient."""
    return blake2b(patient.encode(), key=blake2b(salt.encode(), digest_size=32).digest(), digest_size=8).hexdigest()


class NotesReader(BaseDiskReader):  # type: ignore[misc]
    """Reads notes as a datatrove reader; see `BaseDiskReader` for the other arguments.

    Args:
        data_folder: Where the files are.
        salt: Key of the patients' hashes.
        columns: Field (`id`, `patient`, `text`, `category`, `description`, `date`, `error`) → its column, where that is not MIMIC's.
        placeholders: What becomes of `[** … **]`: `keep`, `type` or `surrogate`.
    """

    name = "notes"

    def __init__(
        self,
        data_folder: Any,
        salt: str,
        columns: dict[str, str] | None = None,
        placeholders: str = "keep",
        **kwargs: Any,
    ):
        super().__init__(data_folder, **kwargs)
        self.salt, self.columns, self.placeholders = salt, columns or {}, placeholders

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Every row of one CSV, JSONL or Parquet file, compressed or not.

        Raises:
            DataError: There is no column of text, or one that was named is missing.
        """
        with opened(self, filepath) as stream:
            where: dict[str, str] = {}
            names: dict[str, None] = {}  # of all columns so far: a JSON line may leave some out
            position = ""
            for position, row, encoding in rows(stream, filepath):
                if isinstance(row, str):
                    yield damaged("notes", filepath, f"{position}, {row}")
                    continue
                if not row.keys() <= names.keys():
                    names |= dict.fromkeys(row)
                    where = self._columns(list(names), filepath)
                try:
                    note = self._note({field: row.get(column) for field, column in where.items()}, filepath, position)
                except NoTextError as error:
                    yield damaged("notes", filepath, f"{position}, {error}", NOT_TEXT)
                    continue
                if encoding:
                    note.metadata[ENCODING] = encoding
                yield note
            if not position:
                yield damaged("notes", filepath, "no row in it")

    def _columns(self, names: list[str], file: str) -> dict[str, str]:
        """Field → the column that holds it."""
        known = {name.lower(): name for name in names}
        where = {}
        for field, candidates in FIELDS.items():
            wanted = (self.columns[field].lower(),) if field in self.columns else candidates
            column = next((known[name] for name in wanted if name in known), None)
            if column is not None:
                where[field] = column
            elif field == "text" or field in self.columns:
                raise DataError(
                    f"there is no column `{wanted[0]}` (there are: {', '.join(names[:20])})",
                    file=self.data_folder.resolve_paths(file),
                    remedy='Name the columns with --note_columns, such as \'{"text": "note", "patient": "mrn"}\'.',
                )
        return where

    def _note(self, row: dict[str, Any], file: str, position: str) -> Document:
        """One row.

        Raises:
            NoTextError: A field holds what cannot be there.
        """
        number, patient = identifier(row.get("id")), identifier(row.get("patient"))
        written = text(row.get("text"))
        metadata: dict[str, Any] = {"source": "notes"}
        if patient:
            metadata["patient"] = patient_hash(self.salt, patient)
        for field in ("category", "description"):
            if value := scalar(row.get(field)):
                metadata[field] = value
        if day := iso(scalar(row.get("date"))):
            metadata["date"], metadata["year"] = day, int(day[:4])
        metadata["links"] = []
        if is_set(row.get("error")):
            metadata[DROPPED] = "marked as an error"
        elif written is None:
            metadata[DROPPED] = NULL_TEXT
        key = f"{self.salt}:{metadata.get('patient', number)}"
        sections = note_sections(Placeholders(self.placeholders, key).replace(written or ""))
        id = f"note:{number}" if number else f"text:{PurePosixPath(file).name}:{position.rpartition(' ')[2]}"
        return build(id, sections, metadata)
