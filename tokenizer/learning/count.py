"""Count the words of documents in one streaming pass, in parallel over files, in bounded memory.

Every process counts what stands between two blanks (`count_table`). When its share of the memory is used up, or all its files are
read, it splits those strings into words and writes them to a run on disk (`spill`). In the end all runs are merged. No word is left
out. Counts have 64 bits.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomlm.core import rng
from biomlm.core.progress import progress
from biomlm.tokenizer.documents import Document
from biomlm.tokenizer.learning import spill, text_chunks
from biomlm.tokenizer.learning.count_table import I64, PAD, U8, CountTable, padded
from biomlm.tokenizer.learning.spill import UNIT
from biomlm.tokenizer.workers import CONTEXT, pool

BUFFER = 1 << 19  # bytes of text counted at a time; they need about 20 times that for a moment
BATCH = 1 << 14  # strings that are split at a time
PROCESS = 24 << 20  # bytes that Python and NumPy take of a process of their own
SUMMING = 4  # summing equal strings takes, for a moment, so many times the memory of the table
BLANK = ord(" ")
OPENS = 0xFF  # in front of a document, where its later pieces have a blank; UTF-8 has no such byte
TO_BLANK = np.array([BLANK if chr(b).isspace() and b < 128 else b for b in range(256)], dtype=np.uint8)
WIDE = {  # bytes of a white-space character beyond ASCII → all that have so many, as numbers
    size: [
        int.from_bytes(chr(c).encode(), "big")
        for c in range(128, 1 << 16)
        if chr(c).isspace() and len(chr(c).encode()) == size
    ]
    for size in (2, 3)
}
WIDE_FIRST = sorted({number >> 8 * (size - 1) for size, numbers in WIDE.items() for number in numbers})

Split = Callable[[str], Sequence[str]]
Starts = Callable[[U8, I64], I64]


@dataclass(frozen=True)
class CountOptions:
    """The options of a count: what is counted, and in how much memory.

    Args:
        split: Cuts text into words, none of which reaches across a blank: one opens the next word; a function of a module.
        starts: Does the same for ASCII, all at once (`bytelevel.ascii_starts`); None if the kind has no such function.
        weights: Source → how often its text counts. Sources that are not named count once, or not at all if `only_named`.
        only_named: Leave out the sources that `weights` does not name.
        sample: Share of documents, chosen by a hash of their ids.
        seed: Of that hash.
        memory: Bytes for all processes together.
    """

    split: Split
    starts: Starts | None
    weights: Mapping[str, float]
    only_named: bool
    sample: float
    seed: int
    memory: int


@dataclass
class Tally:
    """The numbers of documents and characters that a pass read, and the documents of every source."""

    documents: int = 0
    other_sources: int = 0
    not_sampled: int = 0
    characters: int = 0
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Add another pass to this one."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))


@dataclass(frozen=True)
class Counts:
    """The words of a text, the most frequent first; those that stand in it equally often are a run.

    Args:
        text: [bytes] the distinct words as UTF-8, each followed by a line break; a line break in front.
        times: [runs] how often each word of a run stands in the text.
        words: [runs] its words.
        sizes: [runs] bytes of its words, with the line breaks behind them.
        tally: The documents that were read.
    """

    text: U8
    times: I64
    words: I64
    sizes: I64
    tally: Tally

    def items(self) -> Iterator[tuple[str, int]]:
        """Yield every word and its count."""
        end = 1
        for times, size in zip(self.times.tolist(), self.sizes.tolist(), strict=True):
            start, end = end, end + size
            yield from ((word, times) for word in self.text[start : end - 1].tobytes().decode().split("\n"))


def count(files: Collection[Path], options: CountOptions, workers: int, folder: Path) -> Counts:
    """Count the words of files of documents; the result does not depend on the number of workers.

    Args:
        files: Of one split.
        options: What to count, and in how much memory.
        workers: Processes.
        folder: For the runs; it must exist, and is left to the caller to remove.
    """
    shares = [sorted(files)[i::workers] for i in range(min(workers, len(files)))]
    free = max(options.memory - PROCESS * (len(shares) + 1), options.memory // 4)
    room = free // (SUMMING * max(len(shares), 1))
    tally, written = Tally(), list[Path]()
    with progress("count words", sum(file.stat().st_size for file in files), "B") as bar:
        for share_tally, paths in _each(shares, options, room, folder, bar.advance):
            tally.add(share_tally)
            written += paths
    return Counts(*spill.merge(written, folder), tally)


def _each(
    shares: Sequence[Sequence[Path]], options: CountOptions, room: int, folder: Path, advance: Callable[[float], None]
) -> Iterator[tuple[Tally, list[Path]]]:
    """Count every share of the files, in this process if there is only one, and advance the bar by the bytes read."""
    if len(shares) < 2:
        yield from (_count(share, options, room, folder / str(n), advance) for n, share in enumerate(shares))
        return
    read = CONTEXT.Value("q", 0)
    with pool(len(shares), _start_worker, read) as processes:
        waiting: set[Future[Any]] = {
            processes.submit(_work, share, options, room, folder / str(n)) for n, share in enumerate(shares)
        }
        advanced = 0
        while waiting:
            done, waiting = wait(waiting, timeout=1)
            advance(read.value - advanced)
            advanced = read.value
            yield from (future.result() for future in done)


_read: Any = None


def _start_worker(read: Any) -> None:
    global _read  # noqa: PLW0603 (the worker's share of the progress bar)
    _read = read


def _work(files: Sequence[Path], options: CountOptions, room: int, prefix: Path) -> tuple[Tally, list[Path]]:
    def advance(amount: float) -> None:
        with _read.get_lock():
            _read.value += int(amount)

    return _count(files, options, room, prefix, advance)


def _count(
    files: Sequence[Path], options: CountOptions, room: int, prefix: Path, advance: Callable[[float], None]
) -> tuple[Tally, list[Path]]:
    """Count some files into runs `prefix.0`, `prefix.1`, …"""
    tally, written, between = Tally(), list[Path](), CountTable()
    waiting: dict[int, list[bytes]] = {}  # weight → texts
    size = 0

    def flush() -> None:
        nonlocal size
        for weight, texts in waiting.items():
            _count_between(between, b"".join(texts), weight)
        waiting.clear()
        size = 0

    def spill_counts() -> None:
        nonlocal between
        flat, between = between.flat(), CountTable()
        written.append(prefix.with_name(f"{prefix.name}.{len(written)}"))
        spill.write(written[-1], _words(*flat, options))

    for file in files:
        for document, opens in text_chunks.read(file, prefix.parent):
            weight = _weight(document, opens, options, tally)
            if not weight:
                continue
            tally.characters += len(document.text)
            text = document.text.lstrip() if document.parted else document.joined()
            content = text.replace("\0", "").encode()  # the columns cannot hold zero bytes
            for piece in _pieces(bytes([OPENS if opens else BLANK]) + content):
                waiting.setdefault(weight, []).append(piece)
                size += len(piece)
                if size > BUFFER:
                    flush()
                    if between.size > room:
                        spill_counts()
        advance(file.stat().st_size)
    flush()
    spill_counts()
    return tally, written


def _pieces(content: bytes) -> Iterator[bytes]:
    """Cut a document into pieces of little more than BUFFER, in front of blanks, since counting takes many times its memory."""
    start = 0
    while (cut := content.find(b" ", start + BUFFER)) > 0:
        yield content[start:cut]
        start = cut
    yield content[start:]


def _weight(document: Document, opens: bool, options: CountOptions, tally: Tally) -> int:
    """Return how many thousandths the text of a document counts; 0 leaves it out."""
    tally.sources[document.source] += opens
    if options.only_named and document.source not in options.weights:
        tally.other_sources += opens
        return 0
    chosen = options.sample >= 1 or rng.key(options.seed, document.id) < options.sample * 2.0**64
    tally.documents += opens and chosen
    tally.not_sampled += opens and not chosen
    return round(options.weights.get(document.source, 1) * UNIT) if chosen else 0


def _count_between(between: CountTable, text: bytes, weight: int) -> None:
    """Count the strings between white space, with one blank in front of each but those that open a document.

    Args:
        between: Receives the counts.
        text: UTF-8 of documents, OPENS in front of each, or a blank if it is a later piece of one; without zero bytes.
        weight: Of every word.
    """
    content = TO_BLANK[padded(text)]
    _blank_wide(content)
    apart = (content == BLANK) | (content == OPENS)
    apart[len(text)] = True
    change = apart[1:] != apart[:-1]
    at = change.nonzero()[0] + 1  # words begin and end by turns, as the text begins with OPENS
    begin, end = at[: len(at) // 2 * 2].reshape(-1, 2).T
    begin = begin - (content[begin - 1] == BLANK)
    between.count(content, begin, end - begin, np.full(len(begin), weight, dtype=np.int64))


def _blank_wide(content: U8) -> None:
    """Overwrite the white space beyond ASCII with blanks, in place."""
    at = np.isin(content, WIDE_FIRST).nonzero()[0]
    first, second, third = (content[at + n].astype(np.int32) for n in range(3))
    two = at[np.isin(first << 8 | second, WIDE[2])]
    three = at[np.isin(first << 16 | second << 8 | third, WIDE[3])]
    for n in range(2):
        content[two + n] = BLANK
    for n in range(3):
        content[three + n] = BLANK


def _words(text: U8, length: I64, times: I64, options: CountOptions) -> CountTable:
    """Split the strings between blanks into words and count those; `text` holds the strings end to end."""
    words, end = CountTable(), np.append(0, np.cumsum(length))
    for first in range(0, len(length), BATCH):
        batch = slice(first, first + BATCH)
        batch_text = text[end[first] : end[min(first + BATCH, len(length))]]
        _add_words(words, batch_text, length[batch], times[batch], options)
    return words


def _add_words(words: CountTable, text: U8, length: I64, times: I64, options: CountOptions) -> None:
    start = np.cumsum(length) - length
    slow = np.ones(len(start), dtype=np.bool_)
    if options.starts is not None:
        slow = np.maximum.reduceat(text, start) >= 128
        _add_ascii(words, text, length, times, ~slow, options.starts)
    raw, word_counts = text.tobytes(), Counter[str]()
    alike: dict[tuple[int, int], list[bytes]] = {}  # those with a blank in front that count alike are split at once
    for at, size, count in zip(start[slow].tolist(), length[slow].tolist(), times[slow].tolist(), strict=True):
        alike.setdefault((count, 0 if raw[at] == BLANK else at + 1), []).append(raw[at : at + size])
    for (count, _), strings in alike.items():
        for word in options.split(b"".join(strings).decode()):
            word_counts[word] += count
    encoded = [word.encode() for word in word_counts]
    sizes = np.array([len(word) for word in encoded], dtype=np.int64)
    counts = np.array(list(word_counts.values()), dtype=np.int64)
    words.count(padded(b"".join(encoded)), np.cumsum(sizes) - sizes, sizes, counts)


def _add_ascii(
    words: CountTable, text: U8, length: I64, times: I64, chosen: npt.NDArray[np.bool_], starts: Starts
) -> None:
    """Add the words of the chosen strings of a text, all at once."""
    kept = np.repeat(chosen, length)
    text = np.concatenate((text[kept], np.zeros(PAD, dtype=np.uint8)))
    length, times = length[chosen], times[chosen]
    end = np.cumsum(length)
    begin = starts(text[: len(text) - PAD + 2], end - length)
    chunk_of = np.searchsorted(end, begin, side="right")
    words.count(text, begin, np.diff(begin, append=len(text) - PAD), times[chunk_of])
