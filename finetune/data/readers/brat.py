"""brat's standoff files: `X.txt` with the text and `X.ann` with lines `T1<TAB>Type start stop<TAB>mention`; read and written.

Relations, events, attributes and notes are passed over. brat cuts an entity at line ends; those pieces are one entity again. Any other
in several pieces cannot be held by IOB tags; it is left out and counted.
"""

import re
from itertools import pairwise
from pathlib import Path

from biomlm.core.errors import DataError
from biomlm.finetune.data.dropped import Dropped
from biomlm.finetune.data.iob_tags import Span
from biomlm.finetune.data.readers.pubtator import tag_words, without_overlap
from biomlm.finetune.data.records import Tagged
from biomlm.inputs.streams import read_text

ENTITY = re.compile(r"T\d+\t(?P<type>\S+) (?P<offsets>\d+ \d+(?:;\d+ \d+)*)\t(?P<mention>.*)")
ON_ONE_LINE = re.compile(r"[^\s](?:[^\r\n]*[^\s])?")
REMEDY = "Offsets count Unicode characters (not bytes or UTF-16 units) of the .txt file, line ends included."


def read_brat(folder: Path, dropped: Dropped) -> list[Tagged]:
    """Read every document of a folder, in the order of their names.

    Args:
        folder: With a `.txt` beside each `.ann`.
        dropped: Where to count what is left out.

    Raises:
        DataError: A file lacks its other half, a line is malformed, or offsets do not point at their mention.
    """
    names = {path.stem for path in folder.iterdir() if path.suffix.lower() in (".txt", ".ann")}
    return [_document(folder, name, dropped) for name in sorted(names)]


def _document(folder: Path, name: str, dropped: Dropped) -> Tagged:
    text_file, annotations = folder / f"{name}.txt", folder / f"{name}.ann"
    for path in (text_file, annotations):
        if not path.is_file():
            raise DataError(
                "there is no such file", file=path, remedy="Every .txt needs its .ann, an empty one if need be."
            )
    text = read_text(text_file)
    spans: list[Span] = []
    for number, line in enumerate(read_text(annotations).split("\n"), start=1):
        if line.startswith("T"):
            spans += _entity(annotations, number, line.rstrip("\r"), text, dropped)
    flat = without_overlap(spans)
    dropped.overlapping += len(spans) - len(flat)
    return tag_words(name, text, flat, 1)


def _entity(path: Path, number: int, line: str, text: str, dropped: Dropped) -> list[Span]:
    match = ENTITY.fullmatch(line)
    if match is None:
        raise DataError(
            "an entity is `T1<TAB>Type start stop<TAB>mention`", file=path, record=f"line {number}", remedy=REMEDY
        )
    pieces = [(int(start), int(stop)) for start, stop in (piece.split() for piece in match["offsets"].split(";"))]
    start, stop = pieces[0][0], pieces[-1][1]
    whole = all(text[before:after].isspace() for (_, before), (after, _) in pairwise(pieces))
    mention = text[start:stop] if whole else " ".join(text[a:b] for a, b in pieces)
    if not mention.strip() or " ".join(mention.split()) != " ".join(match["mention"].split()):
        raise DataError("the offsets do not point at the mention", file=path, record=f"line {number}", remedy=REMEDY)
    if not whole:
        dropped.discontinuous += 1
        return []
    start += len(mention) - len(mention.lstrip())
    return [Span(start, start + len(mention.strip()), match["type"])]


def numbered(record: Tagged, number: int) -> str:
    """Name a document's files by number and id, whatever the id holds."""
    return f"{number:06}-{re.sub(r'[^A-Za-z0-9._-]', '_', record.id)[:100]}"


def write_brat(folder: Path, record: Tagged, spans: list[Span], name: str) -> None:
    """Write one document and its entities, in characters, to files of a name; an entity is cut at line ends, as brat wants it."""
    lines = []
    for i, span in enumerate(spans, start=1):
        pieces = [m.span() for m in ON_ONE_LINE.finditer(record.text, span.start, span.stop)]
        offsets = ";".join(f"{start} {stop}" for start, stop in pieces)
        mention = " ".join(record.text[start:stop] for start, stop in pieces)
        lines.append(f"T{i}\t{span.type.replace(' ', '_')} {offsets}\t{mention}\n")
    (folder / f"{name}.txt").write_bytes(record.text.encode())
    (folder / f"{name}.ann").write_bytes("".join(lines).encode())


def pubtator_lines(record: Tagged, spans: list[Span]) -> str:
    """Write one document in PubTator's form: its title, or an empty one, and the rest as the abstract; blanks stand for line ends, so that
    offsets hold.
    """
    name = re.sub(r"[|\s]", "_", record.id)
    text = re.sub(r"[\r\n\t]", " ", record.text)
    shift = 1 if record.title is None else 0  # the character behind an empty title
    title, abstract = ("", text) if record.title is None else (text[: record.title], text[record.title + 1 :])
    lines = [f"{name}\t{start + shift}\t{stop + shift}\t{text[start:stop]}\t{kind}\n" for start, stop, kind in spans]
    return f"{name}|t|{title}\n{name}|a|{abstract}\n{''.join(lines)}\n"
