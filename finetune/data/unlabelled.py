"""Texts to predict: one a line, JSON lines, IOB's words, PubTator's or brat's documents, each read a record at a time.

Offsets of what is predicted count characters of the text as given here: of a line without its line end, of a PubTator document its title,
one character and its abstract, of a brat document all of its `.txt`, line ends as they stand. A byte-order mark is no character of a text.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from biomlm.core.errors import DataError
from biomlm.finetune.config import STDIN, PredictConfig, input_of
from biomlm.finetune.data.readers.iob import DOCUMENT, cells
from biomlm.finetune.data.readers.pubtator import TITLE
from biomlm.inputs.streams import open_lines, read_text

LONGEST = (
    4 << 20
)  # bytes of a line, and of the lines of a sentence: what is longer is no text, or was packed to fill the memory
BOM = b"\xef\xbb\xbf"
Text = str | Sequence[str]  # running text, or words that are cut already
Lines = Iterator[tuple[int, bytes]]


@dataclass(frozen=True)
class Unlabelled:
    """What one prediction is made for.

    Args:
        id: Its name.
        texts: A text, a pair, a question and its choices; or one list of words.
        line: Where it begins in its file, from 1; 0 where it is a file of its own.
        title: Characters of a PubTator document's title, which open its text.
    """

    id: str
    texts: list[Text]
    line: int
    title: int | None = None


@dataclass
class Source:
    """Texts that are being read.

    Args:
        size: Bytes in all; 0 if nobody knows.
        records: The texts, in order.
        position: How many bytes have been read.
    """

    size: int
    records: Iterator[Unlabelled]
    position: int = 0


@contextmanager
def opened(config: PredictConfig) -> Iterator[Source]:
    """Open what the configuration names.

    Raises:
        ConfigError: Nothing says what kind of file it is.
        DataError: It is not of that kind, or no UTF-8; when that record is read.
    """
    kind = input_of(config)
    path = Path(config.file)
    if kind == "brat":
        files = sorted(path.glob("*.txt"))
        if not files:
            raise DataError("this folder holds no .txt", file=path, remedy="Give brat's folder of .txt files.")
        source = Source(sum(file.stat().st_size for file in files), iter(()))
        source.records = _documents(files, source)
        yield source
        return
    if config.file == STDIN:
        typed = iter(lambda: sys.stdin.buffer.readline(LONGEST + 1), b"")
        yield Source(0, _READERS[kind](config, _numbered(config, typed)))
        return
    with path.open("rb") as raw:
        source = Source(path.stat().st_size, iter(()))
        source.records = _followed(_READERS[kind](config, _numbered(config, open_lines(raw, LONGEST + 1))), raw, source)
        yield source


def _numbered(config: PredictConfig, lines: Iterable[bytes]) -> Lines:
    for number, line in enumerate(lines, start=1):
        if len(line) > LONGEST:
            raise _wrong(config, number, f"this line has over {LONGEST:,} bytes", "Give one text a line.")
        yield number, line.removeprefix(BOM) if number == 1 else line


def _followed(records: Iterator[Unlabelled], raw: BinaryIO, source: Source) -> Iterator[Unlabelled]:
    for record in records:
        source.position = raw.tell()
        yield record


def _documents(files: Sequence[Path], source: Source) -> Iterator[Unlabelled]:
    for file in files:
        yield Unlabelled(file.stem, [read_text(file)], 0)
        source.position += file.stat().st_size


def _utf8(config: PredictConfig, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise _wrong(config, number, "this is not UTF-8", "Convert it to UTF-8.") from None


def _lines(config: PredictConfig, lines: Lines) -> Iterator[Unlabelled]:
    first = True
    for number, line in lines:
        if line.strip():
            text = _utf8(config, number, line)
            if first and config.input == "auto" and TITLE.match(text):
                problem = "this looks like PubTator's `id|t|title`"
                raise _wrong(config, number, problem, "Say --input pubtator, or --input text for one text a line.")
            first = False
            yield Unlabelled(f"line {number}", [text], number)


def _json_lines(config: PredictConfig, lines: Lines) -> Iterator[Unlabelled]:
    for number, line in lines:
        if line.strip():
            try:
                row = orjson.loads(line)
                texts = [_text(row[name]) for name in config.text]
                yield Unlabelled(str(row.get(config.id, f"line {number}")), texts, number)
            except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
                problem = f"this is no JSON object with text under {', '.join(config.text)}"
                raise _wrong(config, number, problem, "Name the keys with --text.") from None


def _text(value: object) -> Text:
    words = value if isinstance(value, list) else [value]
    if not all(isinstance(word, str) and (word or value == "") for word in words):
        raise TypeError
    return value  # type: ignore[return-value]


def _sentences(config: PredictConfig, lines: Lines) -> Iterator[Unlabelled]:
    """Read the words of an IOB file, its first column; tags are passed over."""
    words: list[str] = []
    begin = count = size = 0
    for number, line in lines:
        word = cells(_utf8(config, number, line))[0]
        if word and word != DOCUMENT:
            begin, size = (begin, size + len(line)) if words else (number, len(line))
            if size > LONGEST:
                problem = f"this sentence has over {LONGEST:,} bytes"
                raise _wrong(config, begin, problem, "Put an empty line behind each sentence.")
            words.append(word)
        elif words:
            count += 1
            yield Unlabelled(f"sentence {count}", [words], begin)
            words = []
    if words:
        yield Unlabelled(f"sentence {count + 1}", [words], begin)


def _pubtator(config: PredictConfig, lines: Lines) -> Iterator[Unlabelled]:
    """Read title and abstract of each PubTator document; annotations are passed over."""
    title: tuple[str, str, int] | None = None
    inside = False
    for number, line in lines:
        text = _utf8(config, number, line)
        if title is not None:
            name, head, begin = title
            if not text.startswith(f"{name}|a|"):
                remedy = "Behind `id|t|title` stands `id|a|abstract`."
                raise _wrong(config, number, "the abstract of the title before is missing", remedy)
            yield Unlabelled(name, [f"{head} {text.removeprefix(f'{name}|a|')}"], begin, len(head))
            title, inside = None, True
        elif not text.strip():
            inside = False
        elif not inside:
            match = TITLE.match(text)
            if not match:
                raise _wrong(
                    config, number, "a document begins with `id|t|title`", "Say --input text for one text a line."
                )
            title = (match[1], text[match.end() :], number)
    if title is not None:
        raise _wrong(
            config, title[2], "the abstract of this title is missing", "Behind `id|t|title` stands `id|a|abstract`."
        )


_READERS = {"text": _lines, "jsonl": _json_lines, "iob": _sentences, "pubtator": _pubtator}


def _wrong(config: PredictConfig, number: int, problem: str, remedy: str) -> DataError:
    return DataError(problem, file=config.file, record=f"line {number}", remedy=remedy)
