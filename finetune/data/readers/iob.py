"""Reader of IOB files: a word and its tag a line, an empty line after every sentence, `-DOCSTART-` between documents.

Columns are parted by tabs, or by blanks where a file has no tab; the word is the first, the tag the last. A word may be an odd blank, such
as a no-break space. A file is IOB2, IOB1, IOBES or BIOUL as a whole; one that is none is refused with the first line that breaks it, or
on request read as conlleval reads it.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from biomlm.core.errors import DataError
from biomlm.finetune.data.iob_tags import ENDING, TAG, breaks_iob1, breaks_iob2, breaks_scheme, iob, iob2
from biomlm.finetune.data.records import Tagged
from biomlm.inputs.streams import read_text

DOCUMENT = "-DOCSTART-"
BLANKS = re.compile(" +")  # not str.split(), for which a no-break space is a blank as well
Token = tuple[str, str, int]  # word, tag, line number


def read_iob(path: Path, fold: str, *, repair: bool = False) -> list[Tagged]:
    """Read one file.

    Args:
        path: A `.tsv` file, or one in gzip.
        fold: Its name in the ids.
        repair: Let every stray `I-` begin an entity, as conlleval does.

    Raises:
        DataError: No UTF-8, a damaged gzip, a line without both columns or with an unknown tag, or tags that break IOB.
    """
    sentences = list(_sentences(path))
    if not repair:
        _check_scheme(path, sentences)
    return [_record(f"{fold}:{number}", tokens) for number, tokens in enumerate(sentences, start=1)]


def record_of(path: Path, name: str, tokens: Sequence[Token]) -> Tagged:
    """Make a sentence of given words and tags; stray `I-` tags begin an entity, as for conlleval.

    Raises:
        DataError: A word is empty or a tag is none.
    """
    for word, tag, line in tokens:
        _check_line(path, line, (word, tag), 2)
    return _record(name, tokens)


def cells(line: str) -> list[str]:
    """Cut a line at its tabs, or at its blanks if it has none; its end and the blanks around each cell are no part of them."""
    row = line.rstrip("\r\n").strip(" ")
    return [cell.strip(" ") for cell in row.split("\t")] if "\t" in row else BLANKS.split(row)


def _sentences(path: Path) -> Iterator[list[Token]]:
    lines = read_text(path).split("\n")  # not splitlines(): a word may hold U+2028 or U+0085
    tabs = any("\t" in line for line in lines)
    tokens: list[Token] = []
    columns = 0
    for number, line in enumerate(lines, start=1):
        row = line.rstrip("\r").strip(" ")
        parts = [cell.strip(" ") for cell in row.split("\t")] if tabs else BLANKS.split(row)
        if not line.strip() or parts[0] == DOCUMENT:
            if tokens:
                yield tokens
            tokens = []
            continue
        columns = columns or len(parts)
        _check_line(path, number, parts, columns)
        tokens.append((parts[0], parts[-1], number))
    if tokens:
        yield tokens


def _check_line(path: Path, number: int, parts: Sequence[str], columns: int) -> None:
    remedy = "Every line needs a word and its tag, parted by a tab; sentences are parted by an empty line."
    where = f"line {number}"
    if len(parts) < 2 or not parts[0]:
        raise DataError("the word or its tag is missing", file=path, record=where, remedy=remedy)
    if len(parts) != columns:
        raise DataError(f"{len(parts)} columns, {columns} before", file=path, record=where, remedy=remedy)
    if not TAG.fullmatch(parts[-1]):
        raise DataError(
            "the last column is no tag: O, B-type or I-type, or IOBES's or BIOUL's",
            file=path,
            record=where,
            remedy=remedy,
        )


def _check_scheme(path: Path, sentences: Sequence[Sequence[Token]]) -> None:
    """Refuse a file that is of no scheme as a whole, at the first line that breaks it."""
    letters = {tag[0] for tokens in sentences for _, tag, _ in tokens}
    schemes = [name for name, own in ENDING.items() if letters & {*own}]
    if schemes:
        _check_ends(path, sentences, schemes)
        return
    broken = _first(sentences, breaks_iob2)
    if broken is not None and _first(sentences, breaks_iob1) is not None:
        raise DataError(
            "this I- tag continues no entity of its type, and the file is not IOB1 either",
            file=path,
            record=f"line {broken}",
            remedy="Mend the tag, or give --repair_tags to let such tags begin an entity, as conlleval does.",
        )


def _check_ends(path: Path, sentences: Sequence[Sequence[Token]], schemes: Sequence[str]) -> None:
    """Refuse a file whose entities have marked ends, of one kind, but not all of them."""
    broken = _first([[*tokens, ("", "O", tokens[-1][2])] for tokens in sentences], breaks_scheme)
    if len(schemes) > 1 or broken is not None:
        problem = "this tag goes on with nothing, or an entity before it has no end"
        raise DataError(
            f"the tags are both {' and '.join(schemes)}" if len(schemes) > 1 else f"{problem}, in {schemes[0]}",
            file=path,
            record=None if len(schemes) > 1 else f"line {broken}",
            remedy="Mend the tags, or give --repair_tags to read them as conlleval does.",
        )


def _first(sentences: Sequence[Sequence[Token]], breaks: Callable[[str, str], bool]) -> int | None:
    for tokens in sentences:
        before = "O"
        for _, tag, line in tokens:
            if breaks(before, tag):
                return line
            before = tag
    return None


def _record(name: str, tokens: Sequence[Token]) -> Tagged:
    words, tags, lines = zip(*tokens, strict=True)
    return sentence(name, words, iob2(iob(tags)), lines[0])


def sentence(name: str, words: Sequence[str], tags: Sequence[str], line: int) -> Tagged:
    """Make a sentence of words set apart by single blanks: a file of words does not say how they stood in the text."""
    places: list[tuple[int, int]] = []
    at = 0
    for word in words:
        places.append((at, at + len(word)))
        at += len(word) + 1
    return Tagged(name, " ".join(words), tuple(places), tuple(tags), line=line)
