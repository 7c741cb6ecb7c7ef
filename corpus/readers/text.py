"""Plain text, JSONL, Parquet and CSV → documents: a text file is one document with a block a paragraph, a row of a table is one."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseDiskReader

from biomlm.corpus.readers.note_sections import joined
from biomlm.corpus.text.dates import iso
from biomlm.corpus.text.document import ENCODING, build, damaged
from biomlm.inputs import values
from biomlm.inputs.encodings import CP1252, Foreign, Unreadable, decoded, utf8_blocks
from biomlm.inputs.streams import bare_name, opened
from biomlm.inputs.tables import rows
from biomlm.inputs.xml import MOST

IDS = ("pmid", "pmcid", "doi")
KNOWN = ("pmid", "pmcid", "doi", "year", "journal", "license", "category")  # metadata taken over from JSONL


class TextReader(BaseDiskReader):  # type: ignore[misc]
    """Read `.txt`, `.jsonl`, `.parquet` and `.csv` as a datatrove reader; see `BaseDiskReader` for the other arguments.

    Args:
        data_folder: Where the files are.
        text_key: Where a row holds its text.
    """

    name = "text"

    def __init__(self, data_folder: Any, text_key: str = "text", **kwargs: Any):
        super().__init__(data_folder, text_key=text_key, **kwargs)

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Yield every document of one file, compressed or not."""
        with opened(self, filepath) as stream:
            yield from (
                self._text(stream, filepath) if bare_name(filepath).endswith(".txt") else self._rows(stream, filepath)
            )

    def _text(self, stream: IO[bytes], file: str) -> Iterator[Document]:
        data, problem = b"", ""
        for block in utf8_blocks(stream):
            if isinstance(block, str) or len(data) > MOST:
                problem = block if isinstance(block, str) else "too long"
                break
            data += block
        if problem:  # it may break off inside a character
            data = data[: data.rfind(b"\n") + 1 or len(data)]
        text = decoded(data)
        if isinstance(text, Unreadable):
            yield damaged("text", file, "neither UTF-8 nor cp1252")
        else:
            yield self._document(str(text), {}, file, "0", CP1252 if isinstance(text, Foreign) else "")
        if problem:
            yield damaged("text", file, f"byte {len(data)}, {problem}")

    def _rows(self, stream: IO[bytes], file: str) -> Iterator[Document]:
        position = ""
        for position, row, encoding in rows(stream, file):
            if isinstance(row, str):
                yield damaged("text", file, f"{position}, {row}")
                continue
            try:
                text = values.text(row.get(self.text_key))
                extra = row.get("metadata")
                extra = _metadata(extra if isinstance(extra, dict) else row)
            except values.NoTextError as error:
                yield damaged("text", file, f"{position}, {error}", values.NOT_TEXT)
                continue
            if text is None:
                yield damaged("text", file, f"{position}, no text in `{self.text_key}`", values.NULL_TEXT)
            else:
                yield self._document(text, extra, file, position.rpartition(" ")[2], encoding)
        if not position:
            yield damaged("text", file, "no row in it")

    def _document(self, text: str, fields: dict[str, Any], file: str, number: str, encoding: str) -> Document:
        metadata: dict[str, Any] = {"source": "text", "links": [], **fields}
        if encoding:
            metadata[ENCODING] = encoding
        paragraphs = joined(text.replace("\r\n", "\n").split("\n"))
        return build(f"text:{PurePosixPath(file).name}:{number}", [("Text", paragraphs)], metadata)


def _metadata(row: dict[str, Any]) -> dict[str, Any]:
    """Collect the metadata that a row has beside its text.

    Raises:
        NoTextError: A field holds several values.
    """
    metadata: dict[str, Any] = {name: value for name in KNOWN if (value := values.scalar(row.get(name)))}
    metadata |= {name: values.identifier(row[name]) for name in IDS if name in metadata}
    if "year" in metadata:
        year = values.identifier(row["year"])
        metadata["year"] = int(year) if year.isdecimal() else year
    if published := iso(values.scalar(row.get("date"))):
        metadata |= {"date": published, "year": int(published[:4])}
    return metadata
