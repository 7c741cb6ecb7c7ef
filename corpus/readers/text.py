"""Plain text, JSONL, Parquet and CSV → documents: a row of a table is one; of a text file each line, each paragraph or the whole is.

What a text file holds is asked or found out: one up to a megabyte is one document, a longer one is looked at. If blank lines part it, what
stands between them is a document each; if most lines end as sentences do, each line is.
"""

import io
import re
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any, Literal, cast

from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseDiskReader

from biomlm.corpus.readers.note_sections import joined
from biomlm.corpus.text.dates import iso
from biomlm.corpus.text.document import ENCODING, UNIT, build, damaged
from biomlm.inputs import values
from biomlm.inputs.encodings import CP1252, Foreign, Problem, Unreadable, decoded, text_lines, utf8_blocks
from biomlm.inputs.slices import Slice, part_of
from biomlm.inputs.streams import bare_name, opened
from biomlm.inputs.tables import rows
from biomlm.inputs.xml import MOST

IDS = ("pmid", "pmcid", "doi")
KNOWN = ("pmid", "pmcid", "doi", "year", "journal", "license", "category")  # metadata taken over from JSONL


Unit = Literal["auto", "file", "paragraph", "line"]
ONE_DOCUMENT = 1 << 20  # bytes up to which a text file is taken for one document
ENDED = re.compile(r"[.!?][\"'”’)\]]*\s*$")


class TextReader(BaseDiskReader):  # type: ignore[misc]
    """Read `.txt`, `.jsonl`, `.parquet` and `.csv` as a datatrove reader; see `BaseDiskReader` for the other arguments.

    Args:
        data_folder: Where the files are.
        text_key: Where a row holds its text.
        unit: What a document of a text file is; `auto` finds it out.
    """

    name = "text"
    part: Slice | None = None  # that is read of a big table

    def __init__(self, data_folder: Any, text_key: str = "text", unit: Unit = "auto", **kwargs: Any):
        super().__init__(data_folder, text_key=text_key, **kwargs)
        self.unit = unit

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Yield every document of one file, compressed or not."""
        with opened(self, filepath) as whole:
            stream = part_of(whole, self.part)
            yield from (
                self._text(stream, filepath) if bare_name(filepath).endswith(".txt") else self._rows(stream, filepath)
            )

    def _text(self, stream: IO[bytes], file: str) -> Iterator[Document]:
        head = b""
        while len(head) <= ONE_DOCUMENT and (block := _read(stream, ONE_DOCUMENT + 1 - len(head))):
            head += block
        whole = cast(IO[bytes], _Again(head, stream))
        unit = self.unit if self.unit != "auto" else unit_of(head)
        yield from self._whole(whole, file) if unit == "file" else self._units(whole, file, unit)

    def _units(self, stream: IO[bytes], file: str, unit: str) -> Iterator[Document]:
        """Yield every line that is not blank, or every run of such lines."""
        lines: list[str] = []
        first, number, lost = 0, 0, False
        for number, line in enumerate(text_lines(stream), start=1):
            if isinstance(line, (Problem, Unreadable)):
                yield damaged(
                    "text", file, f"line {number}, {line if isinstance(line, Problem) else 'neither UTF-8 nor cp1252'}"
                )
                lines, lost = [], not isinstance(line, Problem)
            elif lost and unit == "paragraph" and line.strip():
                pass  # the rest of a paragraph that cannot be read
            elif line.strip() and unit == "paragraph":
                first = first if lines else number
                lines.append(line)
            else:
                lost = False
                if unit == "line" and line.strip():
                    first, lines = number, [line]
                if lines:
                    yield self._unit(lines, file, first, unit)
                lines = []
        if lines:
            yield self._unit(lines, file, first, unit)
        if not number:
            yield damaged("text", file, "nothing in it")

    def _unit(self, lines: list[str], file: str, first: int, unit: str) -> Document:
        encoding = CP1252 if any(isinstance(line, Foreign) for line in lines) else ""
        return self._document("".join(lines), {UNIT: unit}, file, str(first), encoding)

    def _whole(self, stream: IO[bytes], file: str) -> Iterator[Document]:
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
                fields = extra if isinstance(extra, dict) else row
                extra = _metadata(fields) | _links(row.get("links", fields.get("links")))
                own = values.identifier(row.get("id"))
            except values.NoTextError as error:
                yield damaged("text", file, f"{position}, {error}", values.NOT_TEXT)
                continue
            if text is None:
                yield damaged("text", file, f"{position}, no text in `{self.text_key}`", values.NULL_TEXT)
            else:
                yield self._document(text, extra, file, position.rpartition(" ")[2], encoding, own)
        if not position:
            yield damaged("text", file, "no row in it")

    def _document(
        self, text: str, fields: dict[str, Any], file: str, number: str, encoding: str, own_id: str = ""
    ) -> Document:
        metadata: dict[str, Any] = {"source": "text", "links": [], **fields}
        if encoding:
            metadata[ENCODING] = encoding
        paragraphs = joined(text.replace("\r\n", "\n").split("\n"))
        return build(own_id or f"text:{PurePosixPath(file).name}:{number}", [("Text", paragraphs)], metadata)


class _Again(io.RawIOBase):
    """Read what was looked at once more, then the rest."""

    def __init__(self, head: bytes, rest: IO[bytes]):
        self.head, self.rest = head, rest

    def read(self, size: int = -1) -> bytes:
        if not self.head:
            return self.rest.read(size)
        data, self.head = self.head, b""
        return data


def _read(stream: IO[bytes], size: int) -> bytes:
    """Read a block; nothing where the stream is damaged, which is found again when all is read."""
    try:
        return stream.read(size)
    except (EOFError, zlib.error):
        return b""


def unit_of(head: bytes) -> Unit:
    """Return what a document of a text file is, by its first megabyte."""
    if len(head) <= ONE_DOCUMENT:
        return "file"
    lines = head.decode("utf-8", "replace").splitlines()[:-1]
    blank = sum(not line.strip() for line in lines)
    if blank > len(lines) / 100:
        return "paragraph"
    ended = sum(ENDED.search(line[-20:]) is not None for line in lines)
    return "line" if ended > len(lines) / 2 else "file"


def _links(value: Any) -> dict[str, list[str]]:
    """Return a row's own links.

    Raises:
        NoTextError: They are no list of texts.
    """
    if value is None:
        return {}
    if not isinstance(value, list) or not all(isinstance(link, str) for link in value):
        raise values.NoTextError("links that are no list of texts")
    return {"links": value}


def _metadata(row: dict[str, Any]) -> dict[str, Any]:
    """Collect the metadata that a row has beside its text.

    Raises:
        NoTextError: A field holds several values.
    """
    metadata: dict[str, Any] = {name: value for name in KNOWN if (value := values.scalar(row.get(name)))}
    metadata |= {name: values.identifier(row[name]) for name in IDS if name in metadata}
    if "year" in metadata:
        year = values.identifier(row["year"])
        metadata["year"] = int(year) if year.isdecimal() and len(year) == 4 else year
    if published := iso(values.scalar(row.get("date"))):
        metadata |= {"date": published, "year": int(published[:4])}
    return metadata
