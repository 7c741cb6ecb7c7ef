"""Count the words of documents: a streaming pass, in parallel over files, in bounded memory.

Every process counts what stands between two blanks. When its share of the memory is used up, or its files are, it splits that into
words and writes them to a sorted run on disk. In the end all runs are merged, and the words that fit the bound are kept, the most
frequent first. Counts are Python's integers on the way and 64 bits in the end.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, fields
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biolm.core import rng
from biolm.core.progress import progress
from biolm.tokenizer import documents
from biolm.tokenizer.documents import FIRST, in_front

UNIT = 1000  # weights of sources are kept in thousandths
ENTRY = 256  # bytes of a counter for a word of usual length: its string, its slot while the table grows, its number
PLACE = 64  # bytes that learning needs for a byte of a distinct word, at its worst

Split = Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class What:
    """What is counted.

    Args:
        split: Cuts what stands between two blanks (the one in front included) into words; a function of a module.
        weights: Source → how often its text counts. Sources that are not named count once, or not at all if `only_named`.
        only_named: Leave out the sources that `weights` does not name.
        sample: Share of documents, chosen by a hash of their ids.
        seed: Of that hash.
        memory: Bytes for all processes together.
    """

    split: Split
    weights: Mapping[str, float]
    only_named: bool
    sample: float
    seed: int
    memory: int


@dataclass
class Tally:
    """What a pass over documents saw."""

    documents: int = 0
    other_sources: int = 0
    not_sampled: int = 0
    characters: int = 0

    def add(self, other: "Tally") -> None:
        """Add another pass to this one."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))


@dataclass(frozen=True)
class Counts:
    """The words of a text.

    Args:
        text: The distinct words as UTF-8, sorted, each followed by a line break; a line break in front.
        times: [words] how often each stands in the text, in its order.
        tally: What was read.
        rare: Distinct words that were left out, the rarest, because they did not fit the memory.
    """

    text: bytes
    times: npt.NDArray[np.int64]
    tally: Tally
    rare: int = 0

    def items(self) -> Iterator[tuple[str, int]]:
        """Every word and its count."""
        return zip(self.text.decode()[1:].split("\n"), self.times.tolist(), strict=False)


def count(files: Collection[Path], what: What, workers: int, folder: Path) -> Counts:
    """Count the words of files of documents; the result does not depend on the number of workers.

    Args:
        files: Of one split.
        what: What to count.
        workers: Processes.
        folder: For the runs; it must exist, and is left to the caller to remove.
    """
    shares = [sorted(files)[i::workers] for i in range(min(workers, len(files)))]
    entries = max(what.memory // (ENTRY * max(len(shares), 1)), 1000)
    tally, runs = Tally(), list[Path]()
    with progress("count words", sum(file.stat().st_size for file in files), "B") as bar:
        for found, written in _each(shares, what, entries, folder, bar.advance):
            tally.add(found)
            runs += written
    return _merge(runs, tally, what.memory // PLACE, folder / "words")


def _each(
    shares: Sequence[Sequence[Path]], what: What, entries: int, folder: Path, advance: Callable[[float], None]
) -> Iterator[tuple[Tally, list[Path]]]:
    """Count every share of the files, in this process if there is but one, moving the bar by the bytes read."""
    if len(shares) < 2:
        yield from (_count(share, what, entries, folder / str(n), advance) for n, share in enumerate(shares))
        return
    context = get_context("spawn")
    read = context.Value("q", 0)
    with ProcessPoolExecutor(len(shares), context, initializer=_start_worker, initargs=(read,)) as pool:
        waiting: set[Future[Any]] = {
            pool.submit(_work, share, what, entries, folder / str(n)) for n, share in enumerate(shares)
        }
        seen = 0
        while waiting:
            done, waiting = wait(waiting, timeout=1)
            advance(read.value - seen)
            seen = read.value
            yield from (future.result() for future in done)


_read: Any = None


def _start_worker(read: Any) -> None:
    global _read  # noqa: PLW0603 (the worker's share of the progress bar)
    _read = read


def _work(files: Sequence[Path], what: What, entries: int, prefix: Path) -> tuple[Tally, list[Path]]:
    def advance(amount: float) -> None:
        with _read.get_lock():
            _read.value += int(amount)

    return _count(files, what, entries, prefix, advance)


def _count(
    files: Sequence[Path], what: What, entries: int, prefix: Path, advance: Callable[[float], None]
) -> tuple[Tally, list[Path]]:
    """Count some files into sorted runs `prefix.0`, `prefix.1`, …"""
    tally, runs = Tally(), list[Path]()
    between: dict[int, Counter[str]] = {}  # weight → what stands between blanks → how often

    def spill() -> None:
        runs.append(prefix.with_name(f"{prefix.name}.{len(runs)}"))
        _write_run(runs[-1], between, what.split)
        between.clear()

    for file in files:
        for document in documents.read(file):
            weight = _weight(document, what, tally)
            if not weight:
                continue
            words = [word for _, words in document.words() for word in words]
            if words:
                words[0] = FIRST + words[0]
            tally.characters += len(document.text)
            between.setdefault(weight, Counter()).update(words)
            if sum(map(len, between.values())) >= entries:
                spill()
        advance(file.stat().st_size)
    spill()
    return tally, runs


def _weight(document: documents.Document, what: What, tally: Tally) -> int:
    """How many thousandths the text of a document counts; 0 leaves it out."""
    if what.only_named and document.source not in what.weights:
        tally.other_sources += 1
        return 0
    chosen = what.sample >= 1 or rng.key(what.seed, document.id) < what.sample * 2.0**64
    tally.documents += chosen
    tally.not_sampled += not chosen
    return round(what.weights.get(document.source, 1) * UNIT) if chosen else 0


def _write_run(path: Path, between: Mapping[int, Counter[str]], split: Split) -> None:
    words: Counter[str] = Counter()
    for weight, counter in between.items():
        for chunk, times in counter.items():
            for word in split(in_front(chunk)):
                words[word] += times * weight
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{word}\t{words[word]}\n" for word in sorted(words))


def _merge(runs: Sequence[Path], tally: Tally, most_bytes: int, path: Path) -> Counts:
    """Merge sorted runs, and keep the most frequent words that fit.

    The merged words are written to `path` first: which of them fit is known only when all have been counted.
    """
    sizes: Counter[int] = Counter()  # count → bytes of the words that have it
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for word, times in _merged(runs):
            sizes[times] += len(word.encode()) + 1
            file.write(f"{word}\t{times}\n")
    least, used = 1, 0
    for times in sorted(sizes, reverse=True):
        used += sizes[times]
        if used > most_bytes:
            least = times + 1
            break
    text, kept, rare = bytearray(b"\n"), list[int](), 0
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            word, _, number = line.rpartition("\t")
            if int(number) >= least:
                text += word.encode() + b"\n"
                kept.append(int(number))
            else:
                rare += 1
    return Counts(bytes(text), np.array(kept, dtype=np.int64), tally, rare)


def _merged(runs: Sequence[Path]) -> Iterator[tuple[str, int]]:
    """Words of sorted runs with their counts added up, weights taken out again, rounded, at least 1."""
    files = [run.open(encoding="utf-8", newline="\n") for run in runs]
    lines = heapq.merge(*((line.rpartition("\t")[::2] for line in file) for file in files))
    for word, entries in groupby(lines, key=lambda entry: entry[0]):
        yield word, max((sum(int(number) for _, number in entries) + UNIT // 2) // UNIT, 1)
    for file in files:
        file.close()
