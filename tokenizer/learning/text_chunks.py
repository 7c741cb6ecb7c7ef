"""Read documents for their words alone; one that is too long to be held comes in chunks, each as a document.

A document on a line of 47 MB takes 600 MiB to parse. So a line of more than LONG bytes goes to a file without a name, from which its text
is read a block at a time. It is cut between sentences, or at white space within a long one. No word is cut, so the words are the same.
"""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from biomlm.inputs.streams import open_lines
from biomlm.tokenizer import documents
from biomlm.tokenizer.documents import LONGEST, Document
from biomlm.tokenizer.learning.count_table import I64

LONG = 1 << 21  # bytes of a line; parsing takes up to 12 times as much
BLOCK = 1 << 19  # bytes of a long line that are read at once, and characters of a chunk
BEGIN = re.compile(rb'\{\s*"text"\s*:\s*"')
# In front of a blank no escape is cut, nor behind twelve bytes without a backslash: the longest escape is like `\ud83d\ude00`.
BORDER = re.compile(rb" |(?<=[^\\]{12})[^\\\x80-\xbf]")
NEAR = 1 << 10  # bytes in which such a border is looked for
BACKSLASH = ord("\\")


def read(path: Path, folder: Path) -> Iterator[tuple[Document, bool]]:
    """Read the documents of one file, or their chunks, and say of each whether it opens its document.

    Args:
        path: As `corpus build` writes it.
        folder: For files without a name.

    Raises:
        DataError: The file is damaged, or a line is no document.
    """
    number = 1
    with path.open("rb") as file:
        pieces = open_lines(file, LONG, documents.REMEDY)
        for piece in pieces:
            if len(piece) < LONG or piece.endswith(b"\n"):
                yield documents.parse(piece, path, number), True
            else:
                with tempfile.TemporaryFile(dir=folder) as line:
                    line.write(piece)
                    for more in pieces:
                        line.write(more)
                        if more.endswith(b"\n"):
                            break
                    yield from _chunks(line, path, number)
            number += 1


def _chunks(line: IO[bytes], path: Path, number: int) -> Iterator[tuple[Document, bool]]:
    """Read the document on a long line; one that does not begin with its text, as those of `corpus build` do, is parsed whole."""
    line.seek(0)
    begin = BEGIN.match(line.read(NEAR))
    if begin is None:
        line.seek(0)
        yield documents.parse(line.read(), path, number), True
        return
    with documents.line_errors(path, number):
        end = _end(line, begin.end())
        line.seek(end + 1)
        rest = orjson.loads(b"{" + line.read().lstrip().removeprefix(b","))
        sentences = np.array(rest["metadata"]["sentences"], dtype=np.int64).reshape(-1, 2)
        rest["metadata"]["sentences"] = ()
        bounds = np.append(0, sentences)
        if np.any(np.diff(bounds) < 0):
            raise documents.document_error(documents.OVERLAP, rest["id"], path, number)
        at, text = 0, ""
        for more in _text(line, begin.end(), end):
            text += more
            if len(text) < BLOCK:
                continue
            cut = _cut(text, at, sentences)
            if cut and (at or not text[:cut].isspace()):  # the first chunk has the word that opens the document
                yield _chunk(rest, text[:cut], at, sentences, path, number), at == 0
                at, text = at + cut, text[cut:]
        if bounds[-1] > at + len(text):
            raise documents.document_error(documents.OVERLAP, rest["id"], path, number)
        yield _chunk(rest, text, at, sentences, path, number), at == 0


def _end(line: IO[bytes], start: int) -> int:
    """Find the closing quotation mark of the string that starts there, in bytes."""
    line.seek(start)
    raw = b""
    while block := line.read(BLOCK):
        raw = raw[len(raw.rstrip(b"\\")) :] + block
        place = raw.find(b'"')
        while place >= 0:
            escapes = place
            while escapes and raw[escapes - 1] == BACKSLASH:
                escapes -= 1
            if (place - escapes) % 2 == 0:
                return line.tell() - len(raw) + place
            place = raw.find(b'"', place + 1)
    raise orjson.JSONDecodeError("a string has no end", "", 0)


def _text(line: IO[bytes], start: int, end: int) -> Iterator[str]:
    """Yield the string between two places of a line, about a block at a time."""
    line.seek(start)
    raw = b""
    while start < end:
        block = line.read(min(BLOCK, end - start))
        start, raw = start + len(block), raw + block
        borders = [border.start() for border in BORDER.finditer(raw, max(len(raw) - NEAR, 0))]
        cut = len(raw) if start == end else max(borders, default=0)
        yield orjson.loads(b'"' + raw[:cut] + b'"')
        raw = raw[cut:]


def _cut(text: str, at: int, sentences: I64) -> int:
    """Find where a text that stands at a place of its document can be cut: behind a sentence or white space; 0 if nowhere yet."""
    ended = np.searchsorted(sentences[:, 1], at + len(text), side="right")
    if ended and sentences[ended - 1, 1] > at:
        return int(sentences[ended - 1, 1]) - at
    last = "" if text[-1].isspace() else text.rsplit(None, 1)[-1]
    if len(last) > LONGEST:
        return len(text)  # which is refused
    return len(text) - len(last)


def _chunk(rest: dict[str, Any], text: str, at: int, sentences: I64, path: Path, number: int) -> Document:
    """Make a document of the text at a place of a long one, with its share of the sentences."""
    first = np.searchsorted(sentences[:, 1], at, side="right")
    last = np.searchsorted(sentences[:, 0], at + len(text), side="left")
    spans = np.clip(sentences[first:last] - at, 0, len(text)).tolist()
    return documents.from_json(
        {**rest, "text": text, "metadata": {**rest["metadata"], "sentences": spans}}, path, number
    )
