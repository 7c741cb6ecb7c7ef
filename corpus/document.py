"""A document under construction: cleaned blocks of text in, one datatrove `Document` with character offsets out.

Every reader hands over sections as `(path, blocks)`, where a block is a paragraph, a heading or a list item. Blocks are joined by a
line break, sections by a blank line; sentences never cross a block, so offsets are exact by construction. A record that cannot be used
becomes a Document too, marked with the reason, so that whatever comes out of a reader can be counted.
"""

import re
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from datatrove.data import Document

from biolm.corpus.sentences import spans

DROPPED = "dropped"  # metadata key: why a document is put aside
PROBLEM = "problem"  # metadata key: where the damage is; positions and kinds, never text

REMOVED = dict.fromkeys(
    [*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x200B, 0x2060, 0xFEFF, *range(0xFFF9, 0xFFFC), *range(0xD800, 0xE000)]
)
INVISIBLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f\xad\u200b\u2060\ufeff\ufff9-\ufffb\ud800-\udfff]")


def clean(text: str) -> str:
    """One line of text: NFC, white-space runs as one blank, without control, zero-width and soft-hyphen characters."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    text = " ".join(text.split())
    return INVISIBLE.sub("", text).strip() if not text.isprintable() else text


def hash64(*parts: str) -> int:
    """64 bits of BLAKE2b over the parts, the same on every machine and in every process."""
    return int.from_bytes(blake2b("\x1f".join(parts).encode("utf-8", "replace"), digest_size=8).digest(), "big")


def build(id: str, sections: Iterable[tuple[str, Iterable[str]]], metadata: dict[str, Any]) -> Document:
    """Join sections into one text and note where sections and sentences lie.

    Args:
        id: The document's id (docs/design.md, section 1).
        sections: `(path, blocks)` in reading order; neighbours of one path become one section; blocks that are blank after cleaning
            are left out, as are sections without any.
        metadata: Goes into the document beside `sections` and `sentences`.
    """
    parts: list[str] = []
    ranges: list[tuple[int, int, str]] = []
    sentences: list[tuple[int, int]] = []
    at = 0
    for path, blocks in sections:
        start = -1
        for block in blocks:
            line = clean(block)
            if not line:
                continue
            if start < 0 and ranges and ranges[-1][2] == path:
                start = ranges.pop()[0]
            gap = "\n" if start >= 0 else "\n\n" if parts else ""
            parts.append(gap)
            at += len(gap)
            start = at if start < 0 else start
            parts.append(line)
            sentences += [(at + begin, at + end) for begin, end in spans(line)]
            at += len(line)
        if start >= 0:
            ranges.append((start, at, path))
    metadata["sections"], metadata["sentences"] = ranges, sentences
    return Document(text="".join(parts), id=id, metadata=metadata)


def damaged(source: str, file: str, where: str, reason: str = "damaged") -> Document:
    """Stand in for a record that cannot be read: no text, the reason, and the file and position for the report."""
    return Document(
        text="",
        id=f"{source}:{file}:{where}",
        metadata={"source": source, DROPPED: reason, PROBLEM: f"{file}: {where}"},
    )
