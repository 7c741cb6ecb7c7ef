"""Plain text, JSONL, Parquet and CSV → documents: a text file is one document with a block a paragraph, a row of a table is one."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseDiskReader

from biomlm.corpus.readers.note_sections import joined
from biomlm.corpus.text.dates import iso
from biomlm.corpus.text.document import build, damaged
from biomlm.inputs.streams import bare_name, opened
from biomlm.inputs.tables import rows
from biomlm.inputs.xml import MOST, blocks

KNOWN = ("pmid", "pmcid", "doi", "year", "journal", "license", "category")  # metadata taken over from JSONL


class TextReader(BaseDiskReader):  # type: ignore[misc]
    """Reads `.txt`, `.jsonl`, `.parquet` and `.csv` as a datatrove reader; see `BaseDiskReader` for the other arguments.

    Args:
        data_folder: Where the files are.
        text_key: Where a row holds its text.
    """

    name = "text"

    def __init__(self, data_folder: Any, text_key: str = "text", **kwargs: Any):
        super().__init__(data_folder, text_key=text_key, **kwargs)

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Every document of one file, compressed or not."""
        with opened(self, filepath) as stream:
            yield from (
                self._text(stream, filepath) if bare_name(filepath).endswith(".txt") else self._rows(stream, filepath)
            )

    def _text(self, stream: IO[bytes], file: str) -> Iterator[Document]:
        data, problem = b"", ""
        for block in blocks(stream):
            if isinstance(block, str) or len(data) > MOST:
                problem = block if isinstance(block, str) else "too long"
                break
            data += block
        text = data.decode("utf-8-sig", errors="replace")
        yield self._document(text, {}, file, "0")
        if problem:
            yield damaged("text", file, f"byte {len(data)}, {problem}")

    def _rows(self, stream: IO[bytes], file: str) -> Iterator[Document]:
        position = ""
        for position, row in rows(stream, file):
            text = row if isinstance(row, str) else row.get(self.text_key)
            if isinstance(row, str) or not isinstance(text, str):
                problem = row if isinstance(row, str) else f"no text in `{self.text_key}`"
                yield damaged("text", file, f"{position}, {problem}")
                continue
            extra = row.get("metadata")
            yield self._document(text, extra if isinstance(extra, dict) else row, file, position.rpartition(" ")[2])
        if not position:
            yield damaged("text", file, "no row in it")

    def _document(self, text: str, extra: dict[str, Any], file: str, number: str) -> Document:
        known: dict[str, Any] = {k: extra[k] for k in KNOWN if extra.get(k) is not None}
        metadata: dict[str, Any] = {"source": "text", "links": [], **known}
        if isinstance(published := extra.get("date"), str) and (published := iso(published)):
            metadata |= {"date": published, "year": int(published[:4])}
        paragraphs = joined(text.replace("\r\n", "\n").split("\n"))
        return build(f"text:{PurePosixPath(file).name}:{number}", [("Text", paragraphs)], metadata)
