"""Readers of the i2b2 challenges: 2010's `.txt`, `.con` and `.rel` files, and the XML of 2012 and 2014.

2010 counts lines from 1 and words from 0, parted by white space; concepts are quoted in lower case. A relation's record is a pair
of concepts of one line, of the types that 2010 relates; its label is the relation, or `false`. The challenges have no development fold.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from lxml import etree

from biomlm.core.errors import DataError
from biomlm.finetune.data import splits
from biomlm.finetune.data.dropped import Dropped
from biomlm.finetune.data.entity_markers import mark_entities, shift_span
from biomlm.finetune.data.iob_tags import Span
from biomlm.finetune.data.readers.pubtator import tag_words, without_overlap
from biomlm.finetune.data.records import Labelled, Tagged
from biomlm.inputs.streams import read_text
from biomlm.inputs.xml import read_xml

# released as archives of these names; gold annotations of the test notes lie apart from their texts
FOLDERS = {
    "train": ("concept_assertion_relation_training_data", "training", "2012-07-15.original-annotation.release"),
    "test": ("reference_standard_for_test_data", "test_data", "testing", "ground_truth"),
}
ENDS = r"(\d+):(\d+) (\d+):(\d+)"
CONCEPT = re.compile(rf'c="(.*)" {ENDS}\|\|t="([^"]+)"')
RELATION = re.compile(rf'c="(?:(?!\|\|r=").)*" {ENDS}\|\|r="([^"]+)"\|\|c=".*" {ENDS}')
RELATED = ({"problem"}, {"problem", "treatment"}, {"problem", "test"})
NONE = "false"
ASIDE = ("SECTIME", "TLINK")  # elements of 2012's that are no entities
REMEDY = "Use the challenge's own files; words are counted from 0, lines from 1."
Places = dict[tuple[int, int], tuple[int, int]]


def find_concepts(folder: Path) -> dict[str, list[Path]] | None:
    """Find 2010's texts and concepts of each fold."""
    return _with_texts(folder, ("*.con",))


def find_relations(folder: Path) -> dict[str, list[Path]] | None:
    """Find 2010's texts, concepts and relations of each fold."""
    return _with_texts(folder, ("*.con", "*.rel"))


def find_xml(folder: Path) -> dict[str, list[Path]] | None:
    """Find the XML files of 2012 or 2014 of each fold."""
    return splits.folders(folder, FOLDERS, "*.xml")


def _with_texts(folder: Path, patterns: tuple[str, ...]) -> dict[str, list[Path]] | None:
    kinds = [splits.folders(folder, FOLDERS, pattern) for pattern in ("*.txt", *patterns)]
    if any(kind is None for kind in kinds):
        return None
    return {fold: [file for kind in kinds if kind for file in kind.get(fold, [])] for fold in kinds[1] or {}}


def read_concepts(paths: Sequence[Path], fold: str, dropped: Dropped) -> list[Tagged]:  # noqa: ARG001
    """Read the entities of one fold, a note a record.

    Raises:
        DataError: A line is malformed, a file lacks its text, or words do not say what the concept says.
    """
    records = []
    for path, text in _notes(paths, ".con"):
        spans = [span for _, span in _concepts(path, text)]
        flat = without_overlap(spans)
        dropped.overlapping += len(spans) - len(flat)
        records.append(tag_words(path.stem, text, flat, 1))
    return records


def read_relations(paths: Sequence[Path], fold: str, dropped: Dropped) -> list[Labelled]:  # noqa: ARG001
    """Read the pairs of concepts of one fold.

    Raises:
        DataError: As `read_concepts`.
    """
    files = {path.stem: path for path in paths if path.suffix.lower() == ".rel"}
    records: list[Labelled] = []
    for path, text in _notes(paths, ".con"):
        related = _relations(files[path.stem]) if path.stem in files else {}
        pairs = list(_pairs(path, text, related))
        dropped.across_sentences += len(related) - sum(r.labels != (NONE,) for r in pairs)
        records += pairs
    return records


def _notes(paths: Sequence[Path], ending: str) -> Iterator[tuple[Path, str]]:
    """Yield each annotation file and its note's text."""
    texts = {path.stem: path for path in paths if path.suffix.lower() == ".txt"}
    for path in paths:
        if path.suffix.lower() == ending:
            if path.stem not in texts:
                raise DataError(f"there is no {path.stem}.txt", file=path, remedy="Put the notes' texts beside it.")
            yield path, read_text(texts[path.stem])


def _places(text: str) -> Places:
    """Map (line, word) to its characters."""
    places: Places = {}
    at = 0
    for number, line in enumerate(text.split("\n"), start=1):
        for word, match in enumerate(re.finditer(r"\S+", line)):
            places[number, word] = (at + match.start(), at + match.end())
        at += len(line) + 1
    return places


def _concepts(path: Path, text: str) -> Iterator[tuple[tuple[int, ...], Span]]:
    """Yield each concept: where 2010 says it stands, and its characters."""
    places = _places(text)
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        match = CONCEPT.fullmatch(line.strip())
        if match is None and line.strip():
            raise _malformed(path, number, 'a concept is c="…" line:word line:word||t="type"')
        if match is not None:
            where = tuple(map(int, match.groups()[1:5]))
            if where[:2] not in places or where[2:] not in places:
                raise _malformed(path, number, "the note has no such line or word")
            start, stop = places[where[:2]][0], places[where[2:]][1]  # type: ignore[index]
            if text[start:stop].lower().split() != match[1].lower().split():
                raise _malformed(path, number, "the words there are not those of the concept")
            yield where, Span(start, stop, match[6])


def _relations(path: Path) -> dict[frozenset[tuple[int, ...]], str]:
    relations = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        match = RELATION.fullmatch(line.strip())
        if match is None and line.strip():
            raise _malformed(
                path, number, 'a relation is c="…" line:word line:word||r="kind"||c="…" line:word line:word'
            )
        if match is not None:
            ends = (tuple(map(int, match.groups()[:4])), tuple(map(int, match.groups()[5:])))
            relations[frozenset(ends)] = match[5]
    return relations


def _pairs(path: Path, text: str, related: dict[frozenset[tuple[int, ...]], str]) -> Iterator[Labelled]:
    lines = text.split("\n")
    concepts = [(where, span) for where, span in _concepts(path, text) if where[0] == where[2]]
    starts = {}
    for number in {where[0] for where, _ in concepts}:
        starts[number] = sum(len(line) + 1 for line in lines[: number - 1])
    for (first, one), (second, two) in combinations(sorted(concepts), 2):
        if first[0] == second[0] and {one.type, two.type} in RELATED:
            ends = (shift_span(one, starts[first[0]]), shift_span(two, starts[first[0]]))
            sentence = mark_entities(lines[first[0] - 1], ends, both=f"{one.type}-{two.type}").strip()
            name = f"{path.stem}:{first[0]}:{first[1]}-{first[3]}:{second[1]}-{second[3]}"
            label = related.get(frozenset((first, second)), NONE)
            yield Labelled(name, (sentence,), (label,), line=first[0], document=path.stem)


def read_markup(paths: Sequence[Path], fold: str, dropped: Dropped) -> list[Tagged]:  # noqa: ARG001
    """Read events and times (2012) or protected information (2014) of one fold, a note a record.

    Raises:
        DataError: A file without text, or offsets that do not point at their mention.
    """
    records = []
    for path in paths:
        root = read_xml(path)
        text = root.findtext("TEXT")
        if text is None:
            raise DataError("it has no TEXT", file=path, remedy=REMEDY)
        spans = [_tag(path, text, tag) for tag in root.iterfind("TAGS/*[@start]") if tag.tag not in ASIDE]
        flat = without_overlap(spans)
        dropped.overlapping += len(spans) - len(flat)
        records.append(tag_words(path.stem, text, flat, 1))
    return records


def _tag(path: Path, text: str, tag: etree._Element) -> Span:
    ends = (tag.get("start", ""), tag.get("end", ""))
    mention = text[int(ends[0]) : int(ends[1])] if all(end.isdecimal() for end in ends) else ""
    if not mention.strip() or mention.split() != tag.get("text", "").split():
        problem = "the offsets do not point at the mention"
        raise DataError(problem, file=path, record=tag.get("id", ""), remedy="Offsets count characters of TEXT.")
    start = int(ends[0]) + len(mention) - len(mention.lstrip())
    return Span(start, start + len(mention.strip()), tag.get("type") or tag.get("TYPE") or str(tag.tag))


def _malformed(path: Path, number: int, problem: str) -> DataError:
    return DataError(problem, file=path, record=f"line {number}", remedy=REMEDY)
