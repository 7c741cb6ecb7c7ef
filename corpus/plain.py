"""Plain text and JSONL → documents: a text file is one document with a block a paragraph, a JSONL line is one document."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any

import orjson
from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseDiskReader

from biolm.corpus.document import build, damaged
from biolm.corpus.records import MOST, blocks
from biolm.corpus.streams import opened

STEMS = (".gz", ".xz")
KNOWN = ("pmid", "pmcid", "doi", "year", "journal", "license", "category")  # metadata taken over from JSONL


class TextReader(BaseDiskReader):  # type: ignore[misc]
    """Reads `.txt` and `.jsonl` as a datatrove reader; see `BaseDiskReader` for the other arguments.

    Args:
        data_folder: Where the files are.
        text_key: Where a JSONL object holds its text.
    """

    name = "text"

    def __init__(self, data_folder: Any, text_key: str = "text", **kwargs: Any):
        super().__init__(data_folder, text_key=text_key, **kwargs)

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Every document of one file, compressed or not."""
        bare = filepath
        for stem in STEMS:
            bare = bare.removesuffix(stem)
        with opened(self.data_folder, filepath) as stream:
            yield from (
                self._lines(stream, filepath) if bare.endswith((".jsonl", ".ndjson")) else self._text(stream, filepath)
            )

    def _text(self, stream: IO[bytes], file: str) -> Iterator[Document]:
        data, problem = b"", ""
        for block in blocks(stream):
            if isinstance(block, str) or len(data) > MOST:
                problem = block if isinstance(block, str) else "too long"
                break
            data += block
        text = data.decode("utf-8-sig", errors="replace")
        yield self._document(text, {}, file, 0)
        if problem:
            yield damaged("text", file, f"byte {len(data)}, {problem}")

    def _lines(self, stream: IO[bytes], file: str) -> Iterator[Document]:
        rest, number = b"", 0
        for block in blocks(stream):
            if isinstance(block, str):
                yield damaged("text", file, f"line {number + 1}, {block}")
                return
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                number += 1
                if line.strip():
                    yield self._line(line, file, number)
            if len(rest) > MOST:
                yield damaged("text", file, f"line {number + 1}, too long")
                rest = b""
        if rest.strip():
            yield self._line(rest, file, number + 1)

    def _line(self, line: bytes, file: str, number: int) -> Document:
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            value = None
        text = value.get(self.text_key) if isinstance(value, dict) else None
        if not isinstance(text, str):
            return damaged("text", file, f"line {number}, not a JSON object with `{self.text_key}`")
        extra = value.get("metadata")
        return self._document(text, extra if isinstance(extra, dict) else {}, file, number)

    def _document(self, text: str, extra: dict[str, Any], file: str, number: int) -> Document:
        known: dict[str, Any] = {k: extra[k] for k in KNOWN if k in extra}
        metadata: dict[str, Any] = {"source": "text", "links": [], **known}
        paragraphs = text.replace("\r\n", "\n").split("\n")
        return build(f"text:{PurePosixPath(file).name}:{number}", [("Text", paragraphs)], metadata)
