"""Reader of PubTator files: `id|t|title`, `id|a|abstract`, then annotations (id, start, stop, mention, type), parted by tabs.

A document is one record: title and abstract, parted by one character, as offsets count them. Words are cut so that every
entity begins and ends at a word's border, so no annotation is lost; of entities that overlap, the longest stays and the rest is counted.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

from biomlm.core.errors import DataError
from biomlm.finetune.data.dropped import Dropped
from biomlm.finetune.data.iob_tags import Span
from biomlm.finetune.data.records import Tagged
from biomlm.inputs.streams import read_text
from biomlm.tokenizer.encoding.cutting import PIECE

REMEDY = "Offsets count Unicode characters (not bytes or UTF-16 units) of the title, one character between, and the abstract."
TITLE = re.compile(r"([^|\s]+)\|t\|")
Lines = list[tuple[int, str]]


def read_pubtator(
    path: Path, dropped: Dropped, types: Mapping[str, str] | None = None, only: Set[str] | None = None
) -> list[Tagged]:
    """Read one file; a document that occurs twice (NCBI-disease has one) is read once.

    Args:
        path: The file, also in gzip.
        dropped: Where to count what is left out.
        types: Type in the file → type of the entity; what is absent is left out. Without it types are taken as they are. Of several
            types parted by commas (MedMentions) the first that is mapped counts.
        only: Ids of the documents to read; left out, all are.

    Raises:
        DataError: A malformed line, or offsets that do not point at their mention.
    """
    documents: dict[str, Tagged] = {}
    for lines in _documents(path):
        if only is not None and lines[0][1].partition("|")[0] not in only:
            continue
        record = _document(path, lines, dropped, types)
        documents.setdefault(record.id, record)
    return list(documents.values())


def _documents(path: Path) -> Iterator[Lines]:
    lines: Lines = []
    for number, line in enumerate(read_text(path).replace("\r\n", "\n").split("\n"), start=1):
        if line.strip():
            lines.append((number, line))
        elif lines:
            yield lines
            lines = []
    if lines:
        yield lines


def _document(path: Path, lines: Lines, dropped: Dropped, types: Mapping[str, str] | None) -> Tagged:
    (first, title), *rest = lines
    name, _, head = title.partition("|t|")
    if not head and "|t|" not in title:
        raise _malformed(path, first, "a document begins with `id|t|title`")
    if not rest or not rest[0][1].startswith(f"{name}|a|"):
        raise _malformed(path, first, "the line `id|a|abstract` of the same id is missing")
    text = f"{head} {rest[0][1].removeprefix(f'{name}|a|')}"
    spans = [_annotation(path, number, line, name, text) for number, line in rest[1:]]
    if types is not None:
        named = [(s, next((types[t] for t in s.type.split(",") if t in types), "")) for s in spans]
        kept = [Span(s.start, s.stop, kind) for s, kind in named if kind]
        dropped.types += len(spans) - len(kept)
        spans = kept
    flat = without_overlap(spans)
    dropped.overlapping += len(spans) - len(flat)
    return replace(tag_words(name, text, flat, first), title=len(head))


def _annotation(path: Path, number: int, line: str, name: str, text: str) -> Span:
    fields = line.split("\t")
    if len(fields) < 5 or fields[0] != name or not fields[1].isdecimal() or not fields[2].isdecimal():
        raise _malformed(path, number, "an annotation is id, start, stop, mention, type, parted by tabs")
    start, stop = int(fields[1]), int(fields[2])
    mention = text[start:stop]
    if mention.strip() != fields[3].strip() or not mention.strip():
        raise _malformed(path, number, "the offsets do not point at the mention")
    start += len(mention) - len(mention.lstrip())  # one mention of NCBI-disease ends in blanks
    return Span(start, start + len(mention.strip()), fields[4])


def _malformed(path: Path, number: int, problem: str) -> DataError:
    return DataError(problem, file=path, record=f"line {number}", remedy=REMEDY)


def without_overlap(spans: Sequence[Span]) -> list[Span]:
    """Keep of spans that overlap the longest, of equally long ones the first; in order."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start - s.stop, s.start, s.type)):
        if all(span.stop <= other.start or other.stop <= span.start for other in kept):
            kept.append(span)
    return sorted(kept)


def tag_words(name: str, text: str, spans: Sequence[Span], line: int) -> Tagged:
    """Turn a text with entities in characters into words and IOB2 tags; words are cut at the entities' ends."""
    borders = sorted({end for span in spans for end in span[:2]})
    words: list[tuple[int, int]] = []
    for match in PIECE.finditer(text):
        start, stop = match.span()
        inner = borders[bisect_left(borders, start + 1) : bisect_left(borders, stop)]
        words += zip([start, *inner], [*inner, stop], strict=True)
    tags = ["O"] * len(words)
    starts = [start for start, _ in words]
    for span in spans:
        first, last = bisect_left(starts, span.start), bisect_left(starts, span.stop)
        assert first < last, "an entity without a word"
        tags[first:last] = [f"B-{span.type}"] + [f"I-{span.type}"] * (last - first - 1)
    return Tagged(name, text, tuple(words), tuple(tags), line=line)
