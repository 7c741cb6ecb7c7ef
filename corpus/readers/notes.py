"""Clinical notes: tables in the shape of MIMIC-III's NOTEEVENTS or of MIMIC-IV-Note, or any other by a column map → one document a row.

Patients appear as salted hashes only; rows that a clinician marked as an error are put aside.
"""

import re
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseDiskReader

from biomlm.core.errors import DataError
from biomlm.corpus.readers.deid_placeholders import Placeholders
from biomlm.corpus.readers.note_sections import note_sections
from biomlm.corpus.salt import key_of
from biomlm.corpus.sources import NOTE_FIELDS
from biomlm.corpus.text.dates import iso
from biomlm.corpus.text.document import DROPPED, ENCODING, build, damaged
from biomlm.inputs.slices import Slice, part_of
from biomlm.inputs.streams import opened
from biomlm.inputs.tables import rows
from biomlm.inputs.values import NOT_TEXT, NULL_TEXT, NoTextError, identifier, is_set, scalar, text

NOTE_ID = re.compile(r"(\d+)-([A-Z]{2})-(\d+)")  # MIMIC-IV-Note's note_id: subject_id, kind of note, number


def patient_hash(salt: str, patient: str) -> str:
    """Hash a patient to 16 hexadecimal digits of keyed BLAKE2b: the same patient gives the same digits, the digits give no patient."""
    return blake2b(patient.encode(), key=key_of(salt), digest_size=8).hexdigest()


class NotesReader(BaseDiskReader):  # type: ignore[misc]
    """Read notes as a datatrove reader; see `BaseDiskReader` for the other arguments.

    Args:
        data_folder: Where the files are.
        salt: Key of the patients' hashes.
        columns: Field (`id`, `patient`, `text`, `category`, `description`, `date`, `error`) → its column, where that is not MIMIC's.
        placeholders: What becomes of `[** … **]`: `keep`, `type` or `surrogate`.
    """

    name = "notes"
    part: Slice | None = None  # that is read of a big table

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
        """Yield every row of one CSV, JSONL or Parquet file, compressed or not.

        Raises:
            DataError: There is no column of text, one that was named is missing, or two have the name of one that is needed.
        """
        with opened(self, filepath) as whole:
            stream = part_of(whole, self.part)
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
        """Map every field to the column that holds it."""
        spelling = {name.lower(): name for name in names}
        where = {}
        for field, candidates in NOTE_FIELDS.items():
            wanted = (self.columns[field].lower(),) if field in self.columns else candidates
            column = next((spelling[name] for name in wanted if name in spelling), None)
            if column is not None:
                if sum(name.lower() == column.lower() for name in names) > 1:
                    raise DataError(
                        f"there are two columns `{column.lower()}`, told apart by no more than capitals",
                        file=self.data_folder.resolve_paths(file),
                        remedy="Rename one of them, or take it out.",
                    )
                where[field] = column
            elif field == "text" or field in self.columns:
                raise DataError(  # without their names: where there is no header, they are a note
                    f"there is no column `{wanted[0]}` among the {len(names)} columns of the first row",
                    file=self.data_folder.resolve_paths(file),
                    remedy="The first line names the columns: write it if it is missing, or say which is which with "
                    '--note_columns \'{"text": "note", "patient": "mrn"}\'.',
                )
        return where

    def _note(self, row: dict[str, Any], file: str, position: str) -> Document:
        """Build a document from one row.

        Raises:
            NoTextError: A field holds what cannot be there.
        """
        number, patient = identifier(row.get("id")), identifier(row.get("patient"))
        if not patient and (match := NOTE_ID.fullmatch(number)):
            patient = match[1]
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
        id = f"note:{self._bare(number, patient)}"
        if not number:
            id = f"text:{PurePosixPath(file).name}:{position.rpartition(' ')[2]}"
        return build(id, sections, metadata)

    def _bare(self, number: str, patient: str) -> str:
        """Return a note's id, with the patient's hash where the patient's own id is a part of it."""
        if match := NOTE_ID.fullmatch(number):
            return f"{patient_hash(self.salt, match[1])}-{match[2]}-{match[3]}"
        if not patient or number == patient:  # a number of its own that happens to be the same, as ROW_ID can be
            return number
        return re.sub(rf"(?<![^\W_]){re.escape(patient)}(?![^\W_])", patient_hash(self.salt, patient), number)
