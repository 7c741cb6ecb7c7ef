"""Write counted words to disk and merge them: a run is a folder of words and counts, in parts by a hash of the word.

Runs are merged a part at a time, so that the same word of several runs lies in the same part. The words are then laid out by falling
count.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomlm.tokenizer.learning.count_table import I64, ODD, PAD, U8, CountTable, eights

UNIT = 1000  # counts in a run are in thousandths, as the weights of sources are
PARTS = 64  # of a run
BATCH = 1 << 14  # strings that are gathered at a time
BREAK = ord("\n")
RUN = TEXT, LENGTHS, TIMES, BOUNDS = "text", "lengths", "times", "bounds"


def write(path: Path, words: CountTable) -> None:
    """Write words to a folder, in parts by a hash of their first bytes and their length."""
    text, length, times = words.flat()
    start = np.cumsum(length) - length
    with np.errstate(over="ignore"):
        key = eights(text, start, np.minimum(length, 8), 8)[:, 0] * ODD[0] + length.astype(np.uint64) * ODD[1]
    part = (key * ODD[2]) >> np.uint64(64 - (PARTS - 1).bit_length())
    order = part.argsort(kind="stable")
    first = np.searchsorted(part[order], np.arange(PARTS + 1, dtype=np.uint64))
    length, times = length[order], times[order]
    bounds = np.stack((first, np.append(0, np.cumsum(length))[first]))
    path.mkdir()
    for name, array in zip(RUN, (_gathered(text, start[order], length), length, times, bounds), strict=True):
        array.tofile(path / name)


def merge(runs: Sequence[Path], folder: Path) -> tuple[U8, I64, I64, I64]:
    """Merge runs part by part, which gives the number of words of each count, and then lay the parts out.

    Args:
        runs: From `write`.
        folder: For files without a name.

    Returns:
        `text`, `times`, `words` and `sizes` of `count.Counts`.
    """
    sums_by_count: dict[int, I64] = {}  # count → words and bytes
    parts = list[tuple[I64, I64]]()  # of each: its counts, and the bytes of the words that have them
    with tempfile.TemporaryFile(dir=folder) as merged:
        for content, length, times in _merged(runs):
            value, words, size, order = _runs(length, times)
            for count, *sums in zip(value.tolist(), words, size, strict=True):
                sums_by_count[count] = sums_by_count.get(count, 0) + np.array(sums)
            merged.write(_lines(content, length, order).data)
            parts.append((value, size))
        merged.seek(0)
        times = np.array(sorted(sums_by_count, reverse=True), dtype=np.int64)
        words, sizes = np.array([sums_by_count[count] for count in times.tolist()], dtype=np.int64).reshape(-1, 2).T
        text = scratch(folder, 1 + int(sizes.sum()), np.uint8)
        text[0] = BREAK
        end = 1 + np.cumsum(sizes) - sizes  # [runs] of what is written already
        for value, size in parts:
            run = np.searchsorted(-times, -value)
            for r, n in zip(run.tolist(), size.tolist(), strict=True):
                text[end[r] : end[r] + n] = np.frombuffer(merged.read(n), dtype=np.uint8)
            end[run] += size
    return text, times, words, sizes


def scratch(folder: Path, size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Make [size] zeros in a file without a name, whose memory the system may take back at any time."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(max(size, 1) * np.dtype(dtype).itemsize)
        return np.asarray(np.memmap(file, dtype=dtype, shape=(size,)))  # the class of its own makes every look slow


def _merged(runs: Sequence[Path]) -> Iterator[tuple[U8, I64, I64]]:
    """Yield every part of all runs: words end to end, lengths, and counts in units again, rounded, at least 1."""
    all_bounds = [np.fromfile(run / BOUNDS, dtype=np.int64).reshape(2, -1) for run in runs]
    for part in range(PARTS):
        words = CountTable()
        for run, bounds in zip(runs, all_bounds, strict=True):
            (a, b), (first, last) = bounds[:, part : part + 2].tolist()
            text = np.fromfile(run / TEXT, dtype=np.uint8, count=last - first + PAD, offset=first)
            length, times = (np.fromfile(run / name, np.int64, b - a, offset=8 * a) for name in (LENGTHS, TIMES))
            words.count(text, np.cumsum(length) - length, length, times)
        text, length, times = words.flat()
        yield text[: int(length.sum())], length, np.maximum((times + UNIT // 2) // UNIT, 1)


def _runs(length: I64, times: I64) -> tuple[I64, I64, I64, I64]:
    """Give [runs] the distinct counts, the words of each and their bytes with line breaks, and [words] the order by count."""
    order = times.argsort(kind="stable")
    value, first = np.unique(times[order], return_index=True)
    size = np.add.reduceat(length[order] + 1, first) if len(first) else first
    return value, np.diff(first, append=len(order)), size, order


def _lines(text: U8, length: I64, order: I64) -> U8:
    """Put strings that lie end to end into another order, a line break behind each."""
    start, length = (np.cumsum(length) - length)[order], length[order]
    lines = np.full(int(length.sum()) + len(length), BREAK, dtype=np.uint8)
    keeps = np.ones(len(lines), dtype=np.bool_)
    keeps[np.cumsum(length + 1) - 1] = False
    lines[keeps] = _gathered(text, start, length)[:-PAD]
    return lines


def _gathered(text: U8, start: I64, length: I64) -> U8:
    """Gather strings of a text end to end (padded)."""
    gathered = [np.zeros(0, dtype=np.uint8)]
    for first in range(0, len(start), BATCH):  # a place takes 16 times as much as its byte
        begin, size = start[first : first + BATCH], length[first : first + BATCH]
        place = np.repeat(begin - (np.cumsum(size) - size), size)
        place += np.arange(len(place))
        gathered.append(text[place])
    return np.concatenate((*gathered, np.zeros(PAD, dtype=np.uint8)))
