"""A document under construction: cleaned blocks of text in, one datatrove `Document` with character offsets out.

Every reader hands over sections as `(path, blocks)`, where a block is a paragraph, a heading or a list item. Blocks become lines of
the text, sections are separated by a blank line, and sentences never cross a line, so offsets are exact by construction. A record that
cannot be used becomes a Document too, marked with the reason, so that whatever comes out of a reader can be counted.
"""

import re
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from biomlm.corpus.sources import BY_NAME
from biomlm.inputs.search import find_text
from biomlm.inputs.sentences import is_lower_case, spans

DROPPED = "dropped"  # metadata key: why a document is put aside
ENCODING = "encoding"  # metadata key: what the record was read as, where that is no Unicode
UNIT = "unit"  # metadata key, on the way to the part only: what a document of a text file is
PLACE = "place"  # metadata key, on the way to the output only: file and number of the record
RETRACTED = "retracted"  # why such an article is dropped, if it is not wanted
RETRACTS = "retracts"  # metadata key, on the way to the part only: `pmid:…`, `pmcid:…`, `doi:…` of articles that a notice takes back
PROBLEM = "problem"  # metadata key: where the damage is; positions and kinds, never text

INVISIBLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f\xad\u200b\u2060\ufeff\ufff9-\ufffb\ud800-\udfff]")


def clean(text: str) -> str:
    """Clean a text to one line: NFC, white-space runs as one blank, without control, zero-width and soft-hyphen characters."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if text.isprintable():  # then its only white space is the blank
        return " ".join(text.split()) if find_text(text, "  ") >= 0 else text.strip()
    # White space first, for some of it is invisible; then again, for something invisible may have stood between two blanks.
    return " ".join(INVISIBLE.sub("", " ".join(text.split())).split())


def hash64(*parts: str) -> int:
    """Return 64 bits of BLAKE2b over the parts, the same on every machine and in every process."""
    return int.from_bytes(blake2b("\x1f".join(parts).encode("utf-8", "replace"), digest_size=8).digest(), "big")


def build(id: str, sections: Iterable[tuple[str, Iterable[str]]], metadata: dict[str, Any]) -> Document:
    """Join sections into one text and note where sections and sentences lie.

    Args:
        id: The document's id (docs/design.md, section 1).
        sections: `(path, blocks)` in reading order; neighbours of one path become one section; blocks that are blank after cleaning
            are left out, as are sections without any.
        metadata: Goes into the document beside `sections`.
    """
    parts: list[str] = []
    ranges: list[tuple[int, int, str]] = []
    at = 0
    for path, blocks in sections:
        start = -1
        for block in blocks:
            line = clean(block)
            if not line:
                continue
            if start < 0 and ranges and ranges[-1][2] == path:
                start = ranges.pop()[0]
            if start >= 0:
                parts.append("\n")
                at += 1
            elif parts:
                parts.append("\n\n")
                at += 2
            if start < 0:
                start = at
            parts.append(line)
            at += len(line)
        if start >= 0:
            ranges.append((start, at, path))
    metadata["sections"] = ranges
    return Document(text="".join(parts), id=id, metadata=metadata)


def lines(text: str) -> int:
    """Count the lines of a cleaned text that are not empty: sections are parted by one that is."""
    return text.count("\n") - text.count("\n\n") + bool(text)


def words(text: str) -> int:
    """Count the words of a cleaned text, in which one blank stands between words and none at the ends of lines."""
    return text.count(" ") + lines(text)


class AddSentences(PipelineStep):  # type: ignore[misc]
    """Add the offsets of every document's sentences to its metadata; a sentence never crosses a line break."""

    type, name = "✂ - SPLITTER", "sentences"

    def run(self, data: DocumentsPipeline, _rank: int = 0, _world_size: int = 1) -> DocumentsPipeline:
        """Pass every document on, with its sentences."""
        for document in data:
            document.metadata["sentences"] = sentences(
                document.text, edited=BY_NAME[document.metadata["source"]].articles
            )
            yield document


def sentences(text: str, *, edited: bool = True) -> list[tuple[int, int]]:
    """Return the offsets of the sentences of a text whose blocks are lines.

    Args:
        text: The text.
        edited: Whether an editor saw it, as of articles: in notes and plain texts sentences may begin in lower case throughout.
    """
    lower_case = not edited and is_lower_case(text)
    offsets: list[tuple[int, int]] = []
    at = 0
    for line in text.split("\n"):
        offsets += [(at + start, at + stop) for start, stop in spans(line, lower_case)]
        at += len(line) + 1
    return offsets


def damaged(source: str, file: str, where: str, reason: str = "damaged") -> Document:
    """Make a stand-in for a record that cannot be read: no text, the reason, and the file and position for the report."""
    return Document(
        text="",
        id=f"{source}:{file}:{where}",
        metadata={"source": source, DROPPED: reason, PROBLEM: f"{file}: {where}"},
    )


def without_lines(document: dict[str, Any], numbers: list[int]) -> None:
    """Take lines out of a written document's text and move its sections and sentences accordingly.

    Args:
        document: `{"text", "id", "metadata"}`; changed in place.
        numbers: Which lines, counted from 0.
    """
    meta, gone = document["metadata"], set(numbers)
    lines = document["text"].split("\n")
    sections: list[tuple[str, list[str]]] = []
    at = number = 0
    for start, stop, path in meta["sections"]:
        kept = []
        while number < len(lines) and at < stop:
            if number not in gone and at >= start:
                kept.append(lines[number])
            at += len(lines[number]) + 1
            number += 1
        sections.append((path, kept))
    rebuilt = build(document["id"], sections, {})
    document["text"] = rebuilt.text
    meta["sections"], meta["sentences"] = (
        rebuilt.metadata["sections"],
        sentences(rebuilt.text, edited=BY_NAME[meta["source"]].articles),
    )
