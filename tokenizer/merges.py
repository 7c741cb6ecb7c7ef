"""Learn BPE merges from word counts (Sennrich et al. 2016, "Neural machine translation of rare words with subword units").

All distinct words lie in one flat array of symbols. A symbol's id stands at its first and at its last byte, so that from any
symbol both neighbours are one addition away and no links are kept. A pair of symbols comes into being in exactly one merge, that of
its later symbol; from then on it only becomes rarer. So the positions of a pair are listed once, and checked when they are used.
Ties fall to the pair with the smaller ids, as in `tokenizers`, with whose merges ours are identical.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

INNER, BORDER = -2, -1  # inside a symbol; between two words


@dataclass(frozen=True)
class Learnt:
    """What was learnt.

    Args:
        merges: Pairs of symbol ids; merge m makes symbol 256 + m.
        counts: [256 + merges] how often each symbol stands in the words at the end.
    """

    merges: list[tuple[int, int]]
    counts: I64


class _Pairs:
    """Counts and positions of the pairs that can still be merged, and a heap of them by falling count."""

    def __init__(self, min_count: int):
        self.min_count = min_count
        self.count: dict[int, int] = {}
        self.where: dict[int, I64] = {}
        self.heap: list[tuple[int, int]] = []

    def add(self, keys: I64, positions: I64, weights: I64) -> None:
        """Enter new pairs: key (left << 32 | right), position and word count of every place they stand at."""
        order = np.argsort(keys, kind="stable")
        keys, positions = keys[order], positions[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        totals = np.add.reduceat(weights[order], first) if len(keys) else weights
        bounds = [*first.tolist(), len(keys)]
        for i in np.flatnonzero(totals >= self.min_count).tolist():
            key, total = int(keys[bounds[i]]), int(totals[i])
            self.count[key] = total
            self.where[key] = positions[bounds[i] : bounds[i + 1]].copy()
            heapq.heappush(self.heap, (-total, key))

    def subtract(self, keys: I64, weights: I64) -> None:
        """Take away places of old pairs that a merge destroyed."""
        for key, weight in zip(keys.tolist(), weights.tolist(), strict=True):
            if key in self.count:
                self.count[key] -= weight

    def pop(self) -> tuple[int, I64] | None:
        """The most frequent pair and its positions, or None if all are too rare."""
        while self.heap:
            count, key = heapq.heappop(self.heap)
            now = self.count[key]
            if now == -count:
                del self.count[key]
                return key, self.where.pop(key)
            if now >= self.min_count:
                heapq.heappush(self.heap, (-now, key))
            else:
                del self.count[key], self.where[key]
        return None


def learn(
    words: Sequence[bytes], counts: I64, rank: I64, most: int, min_count: int, tick: Callable[[], None]
) -> Learnt:
    """Learn up to `most` merges.

    Args:
        words: The distinct words.
        counts: [words] how often each stands in the text.
        rank: [256] the symbol id of every byte value.
        most: Merges to learn; fewer if the words support no more.
        min_count: Pairs below this count are not merged.
        tick: Called after every merge.
    """
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    symbols = rank[np.frombuffer(b" ".join([b"", *words, b""]), dtype=np.uint8)].astype(np.int32)
    symbols[np.concatenate(([0], np.cumsum(lengths + 1)))] = BORDER
    word_of = np.repeat(np.arange(len(words), dtype=np.int32), lengths + 1)
    state = _State(symbols, word_of, counts, _Pairs(min_count), [1] * 256)

    start = np.flatnonzero((symbols[:-1] >= 0) & (symbols[1:] >= 0))
    state.pairs.add(_key(symbols[start], symbols[start + 1]), start, counts[word_of[start]])
    merges: list[tuple[int, int]] = []
    while len(merges) < most and (top := state.pairs.pop()) is not None:
        key, positions = top
        merges.append((key >> 32, key & 0xFFFFFFFF))
        state.merge(*merges[-1], positions)
        tick()
    return Learnt(merges, state.totals())


@dataclass
class _State:
    """The words as they are segmented so far.

    Args:
        symbols: [bytes and borders] a symbol's id at its first and last byte, INNER between, BORDER between words.
        word_of: [bytes and borders] index of the word.
        counts: [words] how often each word stands in the text.
        pairs: What can be merged.
        size: Bytes of every symbol.
    """

    symbols: npt.NDArray[np.int32]
    word_of: npt.NDArray[np.int32]
    counts: I64
    pairs: _Pairs
    size: list[int]

    def merge(self, left: int, right: int, positions: I64) -> None:
        """Make a new symbol of `left` and `right` wherever they still stand side by side."""
        symbols, new = self.symbols, len(self.size)
        left_size, right_size = self.size[left], self.size[right]
        self.size.append(left_size + right_size)
        at = positions[symbols[positions] == left]
        at = at[symbols[at + left_size] == right]
        if left == right:
            at = _every_second(at, left_size)
        middle, end = at + left_size, at + left_size + right_size
        weights = self.counts[self.word_of[at]]
        before, after = symbols[at - 1], symbols[end]
        symbols[middle] = INNER
        symbols[middle - 1] = INNER
        symbols[at] = new
        symbols[end - 1] = new

        new_before, new_after = symbols[at - 1], symbols[end]
        b = np.flatnonzero(new_before >= 0)
        a = np.flatnonzero((new_after >= 0) & (new_after != new))  # (new, new) is seen from its right
        gone_b = np.flatnonzero((new_before >= 0) & (new_before != new))
        a_all = np.flatnonzero(after >= 0)
        self.pairs.subtract(
            np.concatenate((_key(before[gone_b], left), _key(right, after[a_all]))),
            np.concatenate((weights[gone_b], weights[a_all])),
        )
        sizes = np.array([self.size[s] for s in new_before[b].tolist()], dtype=np.int64)
        self.pairs.add(
            np.concatenate((_key(new_before[b], new), _key(new, new_after[a]))),
            np.concatenate((at[b] - sizes, at[a])),
            np.concatenate((weights[b], weights[a])),
        )

    def totals(self) -> I64:
        """[symbols] how often each symbol stands in the text, as it is segmented now."""
        place = np.flatnonzero(self.symbols >= 0)
        totals = np.zeros(len(self.size), dtype=np.int64)
        np.add.at(totals, self.symbols[place], self.counts[self.word_of[place]])
        totals[np.array(self.size) > 1] //= 2  # seen at its first byte and at its last
        return totals


def _key(left: npt.NDArray[np.int32] | int, right: npt.NDArray[np.int32] | int) -> I64:
    return (np.asarray(left, dtype=np.int64) << 32) | np.asarray(right, dtype=np.int64)


def _every_second(at: I64, step: int) -> I64:
    """Of overlapping places (aaa holds aa twice), keep the first, third, … of each run."""
    if not len(at):
        return at
    first = np.concatenate(([True], np.diff(at) != step))
    index = np.arange(len(at))
    in_run = index - np.maximum.accumulate(np.where(first, index, 0))
    kept: I64 = at[in_run % 2 == 0]
    return kept
