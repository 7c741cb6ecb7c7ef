"""brat's standoff files: `X.txt` with the text and `X.ann` with lines `T1<TAB>Type start stop<TAB>mention`; read and written.

Relations, events, attributes and notes are passed over. An entity in several pieces cannot be held by IOB tags; it is left out and counted.
"""

import re
from pathlib import Path

from biomlm.core.errors import DataError
from biomlm.finetune.data.dropped import Dropped
from biomlm.finetune.data.iob_tags import Span
from biomlm.finetune.data.readers.pubtator import tag_words, without_overlap
from biomlm.finetune.data.records import Tagged
from biomlm.inputs.streams import read_text

ENTITY = re.compile(r"T\d+\t(?P<type>\S+) (?P<offsets>\d+ \d+(?:;\d+ \d+)*)\t(?P<mention>.*)")
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
    if ";" in match["offsets"]:
        dropped.discontinuous += 1
        return []
    start, stop = map(int, match["offsets"].split())
    mention = text[start:stop]
    if not mention.strip() or " ".join(mention.split()) != " ".join(match["mention"].split()):
        raise DataError("the offsets do not point at the mention", file=path, record=f"line {number}", remedy=REMEDY)
    start += len(mention) - len(mention.lstrip())
    return [Span(start, start + len(mention.strip()), match["type"])]


def write_brat(folder: Path, record: Tagged, spans: list[Span], number: int) -> None:
    """Write one document and its entities, in characters; the file is named by number and id, whatever the id holds."""
    name = f"{number:06}-{re.sub(r'[^A-Za-z0-9._-]', '_', record.id)[:100]}"
    lines = [
        f"T{i}\t{kind.replace(' ', '_')} {start} {stop}\t{' '.join(record.text[start:stop].split())}\n"
        for i, (start, stop, kind) in enumerate(spans, start=1)
    ]
    (folder / f"{name}.txt").write_bytes(record.text.encode())
    (folder / f"{name}.ann").write_bytes("".join(lines).encode())


def pubtator_lines(record: Tagged, spans: list[Span]) -> str:
    """Write one document in PubTator's form: an empty title, the text as the abstract with blanks for line ends, so that offsets hold."""
    name = re.sub(r"[|\s]", "_", record.id)
    text = re.sub(r"[\r\n\t]", " ", record.text)
    lines = [f"{name}\t{start + 1}\t{stop + 1}\t{text[start:stop]}\t{kind}\n" for start, stop, kind in spans]
    return f"{name}|t|\n{name}|a|{text}\n{''.join(lines)}\n"
