"""Read lists of biomedical terms: a term a line, or the entities of a named-entity data set."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from biomlm.core.errors import DataError
from biomlm.tokenizer.formats.fairseq import read_text

REMEDY = "Give a term a line, or IOB tags in a .tsv file, as UTF-8."


def name_of(file: str | Path) -> str:
    """Give the name of a file of terms in a table: its own, with its folder's for the `train.tsv` of a data set."""
    path = Path(file)
    return f"{path.parent.name}/{path.stem}" if path.suffix.lower() == ".tsv" else path.stem


def read(file: str | Path) -> list[str]:
    """Read the distinct terms of a file, sorted, white-space runs as single blanks.

    Args:
        file: `.tsv`: a word, a tab and its IOB tag a line, a blank line between sentences; any other: a term a line.

    Raises:
        DataError: It is missing, is not UTF-8 or has no terms.
    """
    lines = read_text(Path(file), REMEDY).splitlines()
    candidates = _entities(lines) if Path(file).suffix.lower() == ".tsv" else iter(lines)
    terms = sorted({" ".join(term.split()) for term in candidates} - {""})
    if not terms:
        raise DataError("there are no terms in it", file=file, remedy=REMEDY)
    return terms


def _entities(lines: list[str]) -> Iterator[str]:
    number = 0
    tagged = []
    for line in lines:
        word, _, tag = line.partition("\t")
        number += not tag.startswith("I")  # B opens an entity; O and blank lines end one
        tagged.append((number, tag, word))
    for _, words in groupby(tagged, key=lambda entry: entry[0]):
        entity = [word for _, tag, word in words if tag[:1] in ("B", "I")]
        yield " ".join(entity)
