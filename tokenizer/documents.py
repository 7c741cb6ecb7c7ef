"""Documents as `corpus build` writes them (docs/design.md, section 1), read for their sentences."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from biomlm.core.errors import DataError
from biomlm.corpus.sources import names
from biomlm.inputs.streams import open_lines

FIRST = "\n"  # marks the word that opens a document: no blank stands in front of it, and no word holds a line break
LONGEST = 1_000_000  # characters of a word; the tokenizers need about 100 bytes a character for one
PUBLIC_SOURCES = names(lambda source: source.public)  # whose text may be shown without being asked for
OVERLAP = "its sentences overlap or run out of the text"
REMEDY = "Make the documents again with `biomlm corpus build`."


@dataclass(frozen=True)
class Document:
    """One document.

    Args:
        id: Such as `pmid:123`.
        source: The option of `corpus build` that it came from, such as `pmc`.
        text: The whole text.
        sentences: `[start, end]` of every sentence, characters of `text`, ascending; all between them is white space.
        sections: `[start, end, title]`, ascending.
        links: Ids of the documents that it cites.
    """

    id: str
    source: str
    text: str
    sentences: Sequence[tuple[int, int]]
    sections: Sequence[tuple[int, int, str]]
    links: Sequence[str]

    def words(self) -> Iterator[tuple[int, list[str]]]:
        """Give the section and the words of every sentence; skip sentences of white space alone.

        Words are separated by runs of white space. Sections are numbered in order; text between two sections has a number of its own.
        """
        bounds = [bound for start, end, _ in self.sections for bound in (start, end)]
        for start, end in self.sentences:
            if words := self.text[start:end].split():
                yield bisect_right(bounds, start), words

    def joined(self) -> str:
        """Join all words with single blanks."""
        return " ".join(word for _, words in self.words() for word in words)

    @property
    def parted(self) -> bool:
        """Whether white space stands between any two sentences, so that the words of the text are those of its sentences."""
        return all(before[1] < after[0] for before, after in pairwise(self.sentences))


def in_front(word: str) -> str:
    """Give a word as the tokenizer sees it: with a blank in front, unless it opens its document."""
    return word[1:] if word.startswith(FIRST) else " " + word


def parse(line: bytes, path: Path, number: int) -> Document:
    """Parse one line of a file of documents.

    Args:
        line: The line.
        path: Its file, for errors.
        number: Its number in the file from 1, for errors.

    Raises:
        DataError: It is not a document, or has text that belongs to no sentence.
    """
    with line_errors(path, number):
        return from_json(orjson.loads(line), path, number)


@contextmanager
def line_errors(path: Path, number: int) -> Iterator[None]:
    """Turn the errors of parsing a line into a DataError that names the line and what is wrong with it."""
    where = f"line {number}"
    try:
        yield
    except DataError:
        raise
    except orjson.JSONDecodeError as error:
        problem = "this is not UTF-8 text" if "UTF-8" in str(error) else "this is not valid JSON"
        raise DataError(problem, file=path, record=where, remedy=REMEDY) from None
    except (KeyError, TypeError, ValueError, OverflowError):
        problem = "a document has `id`, `text` and `metadata` with `source` and `sentences`"
        raise DataError(problem, file=path, record=where, remedy=REMEDY) from None


def from_json(raw: Mapping[str, Any], path: Path, number: int) -> Document:
    """Make a document of a parsed line; arguments and errors are those of `parse`."""
    text, metadata = raw["text"], raw["metadata"]
    document = Document(
        id=raw["id"],
        source=metadata["source"],
        text=text,
        sentences=metadata["sentences"],
        sections=metadata.get("sections") or (),
        links=metadata.get("links") or (),
    )
    if problem := _check(text, document.sentences, document.sections):
        raise document_error(problem, document.id, path, number)
    return document


def document_error(problem: str, name: str, path: Path, number: int) -> DataError:
    """Return the error for a problem of the document with the id `name`."""
    return DataError(problem, file=path, record=f"line {number}, {name}", remedy=REMEDY)


def _check(text: str, sentences: Sequence[tuple[int, int]], sections: Sequence[tuple[int, int, str]]) -> str:
    """Check the offsets of a document, and return what is wrong with them, or an empty string."""
    covered = 0
    for start, end in sentences:
        if not covered <= start <= end <= len(text):
            return OVERLAP
        if text[covered:start].strip():
            return "its sentences leave text out"
        covered = end
    if text[covered:].strip():
        return "its sentences leave text out"
    long = (word for start, end in sentences if end - start > LONGEST for word in text[start:end].split())
    if any(len(word) > LONGEST for word in long):
        return f"it has a word of more than {LONGEST:,} characters"
    bounds = [bound for start, end, _ in sections for bound in (start, end)]
    return "" if bounds == sorted(bounds) else "its sections overlap"


def read(path: Path) -> Iterator[Document]:
    """Read the documents of one file."""
    with path.open("rb") as file:
        for number, line in enumerate(open_lines(file, remedy=REMEDY), start=1):
            yield parse(line, path, number)
