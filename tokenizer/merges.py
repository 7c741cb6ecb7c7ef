"""Learn BPE merges from word counts (Sennrich et al. 2016, "Neural machine translation of rare words with subword units").

All distinct words lie in one flat array of symbols. A symbol's id stands at its first and at its last place, so that from any symbol
both neighbours are one addition away and no links are kept. A pair of symbols comes into being in exactly one merge, that of its later
symbol; from then on it only becomes rarer. So the places of a pair are listed once, and checked when they are used. Ties fall to the
pair with the smaller ids, as in `tokenizers`, with whose merges ours are identical.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Places = npt.NDArray[Any]  # int32 or int64 positions in the flat array

BORDER, INNER = -1, -2  # between two words; inside a symbol
CHUNK = 1 << 17  # places whose first pairs are sorted at a time
MANY = 256  # from here on, equal keys are added up before the dictionary is asked


@dataclass(frozen=True)
class Words:
    """The distinct words of a text.

    Args:
        symbols: [places] base symbols of all words; BORDER before the first word and behind each.
        counts: [words] how often each stands in the text.
        base: Number of base symbols: 0 … base - 1.
    """

    symbols: I32
    counts: I64
    base: int


@dataclass(frozen=True)
class Learnt:
    """What was learnt.

    Args:
        merges: Pairs of symbols; merge m makes symbol base + m.
        counts: [base + merges] how often each symbol stands in the text, once all merges are done.
    """

    merges: list[tuple[int, int]]
    counts: I64


def learn(words: Words, most: int, min_count: int, tick: Callable[[], None]) -> Learnt:
    """Learn up to `most` merges.

    Args:
        words: What to learn from; its `symbols` are overwritten.
        most: Merges to learn; fewer if the words support no more.
        min_count: Pairs below this count are not merged.
        tick: Called after every merge.
    """
    state = _State(words, most, min_count)
    merges: list[tuple[int, int]] = []
    while len(merges) < most and (top := state.pairs.pop()) is not None:
        key, places = top
        merges.append((key >> 32, key & 0xFFFFFFFF))
        state.merge(*merges[-1], places)
        tick()
    return Learnt(merges, state.totals())


class _Pairs:
    """Counts of the pairs that can still be merged, and a heap of them by falling count.

    The heap's entries hold the pairs' places as bare bytes: most pairs have few, and an array's own hundred bytes would be most of it.
    """

    def __init__(self, min_count: int, place_type: npt.DTypeLike):
        self.min_count, self.place_type = min_count, place_type
        self.count: dict[int, int] = {}
        self.heap: list[tuple[int, int, bytes]] = []
        self.parts: dict[int, list[bytes]] = {}

    def collect(self, keys: I64, places: Places, weights: I64) -> None:
        """Enter the first pairs, or a part of them: key (left << 32 | right), place and word count of each."""
        for key, total, found in _grouped(keys, places, weights, 1):
            self.count[key] = self.count.get(key, 0) + total
            self.parts.setdefault(key, []).append(found)

    def ready(self) -> None:
        """All first pairs are entered: forget the rare ones, put the others on the heap."""
        self.count = {key: count for key, count in self.count.items() if count >= self.min_count}
        self.heap = [(-count, key, b"".join(self.parts[key])) for key, count in self.count.items()]
        self.parts.clear()
        heapq.heapify(self.heap)

    def add(self, keys: I64, places: Places, weights: I64) -> None:
        """Enter the pairs of a new symbol."""
        for key, total, found in _grouped(keys, places, weights, self.min_count):
            self.count[key] = total
            heapq.heappush(self.heap, (-total, key, found))

    def subtract(self, keys: I64, weights: I64) -> None:
        """Take away what a merge destroyed: key and word count of every place."""
        if len(keys) > MANY:
            order = np.argsort(keys)
            keys, first = np.unique(keys[order], return_index=True)
            weights = np.add.reduceat(weights[order], first)
        for key, weight in zip(keys.tolist(), weights.tolist(), strict=True):
            if key in self.count:
                self.count[key] -= weight

    def pop(self) -> tuple[int, Places] | None:
        """The most frequent pair and its places, or None if all are too rare."""
        while self.heap:
            count, key, places = self.heap[0]
            now = self.count[key]
            if now == -count or now < self.min_count:
                heapq.heappop(self.heap)
                del self.count[key]
            else:
                heapq.heapreplace(self.heap, (-now, key, places))
            if now == -count:
                return key, np.frombuffer(places, dtype=self.place_type)
        return None


class _State:
    """The words as they are segmented so far."""

    def __init__(self, words: Words, most: int, min_count: int):
        self.symbols, self.counts = words.symbols, words.counts
        self.place_type = np.int32 if len(self.symbols) < 1 << 31 else np.int64
        self.pairs = _Pairs(min_count, self.place_type)
        self.word_of = np.cumsum(self.symbols == BORDER, dtype=np.int32) - np.int32(1)  # [places]
        self.size: Places = np.ones(
            words.base + most + 1, dtype=self.place_type
        )  # [symbols] places of each; the last is no symbol
        self.known = words.base  # symbols there are
        for start in range(0, len(self.symbols) - 1, CHUNK):
            left, right = self.symbols[start : start + CHUNK], self.symbols[start + 1 : start + 1 + CHUNK]
            places = ((left[: len(right)] >= 0) & (right >= 0)).nonzero()[0]
            keys = _keys(left[places], right[places])
            places = (places + start).astype(self.place_type)
            self.pairs.collect(keys, places, self.counts[self.word_of[places]])
        self.pairs.ready()

    def merge(self, left: int, right: int, places: Places) -> None:
        """Make a new symbol of `left` and `right` wherever they still stand side by side."""
        symbols, new = self.symbols, self.known
        left_size, both = int(self.size[left]), int(self.size[left] + self.size[right])
        self.size[new], self.known = both, new + 1
        at = places[(symbols[places] == left) & (symbols[places + left_size] == right)]
        if left == right:
            at = _every_second(np.sort(at), left_size)
        before, middle, end = at - 1, at + left_size, at + both
        old_before, old_after = symbols[before], symbols[end]
        symbols[middle] = INNER
        symbols[middle - 1] = INNER
        symbols[at] = new
        symbols[end - 1] = new

        # At a border the keys come out negative, and no such pair is ever known. Where the new symbol stands beside itself, that
        # neighbour was a merged place as well: it is told of once, from the right.
        weights = self.counts[self.word_of[at]]
        weights = np.concatenate((weights, weights))
        new_before, new_after = symbols[before], symbols[end]
        lost = np.where(new_before == new, -1, _keys(old_before, left))
        self.pairs.subtract(np.concatenate((lost, right << 32 | old_after.astype(np.int64))), weights)
        won = np.where(new_after == new, -1, new << 32 | new_after.astype(np.int64))
        places = np.concatenate((at - self.size[new_before], at))
        self.pairs.add(np.concatenate((_keys(new_before, new), won)), places, weights)

    def totals(self) -> I64:
        """[symbols] how often each symbol stands in the text, as it is segmented now."""
        place = (self.symbols >= 0).nonzero()[0]
        totals = np.zeros(self.known, dtype=np.int64)
        np.add.at(totals, self.symbols[place], self.counts[self.word_of[place]])
        totals[np.greater(self.size[: self.known], 1)] //= 2  # seen at its first place and at its last
        return totals


def _keys(left: I32, right: I32 | int) -> I64:
    keys: I64 = left.astype(np.int64) << 32 | right
    return keys


def _grouped(keys: I64, places: Places, weights: I64, least: int) -> list[tuple[int, int, bytes]]:
    """Key, total weight and places, as bytes, of every pair that has at least `least`; negative keys are no pairs."""
    if not len(keys):
        return []
    order = keys.argsort()
    keys, places = keys[order], places[order]
    first = np.concatenate(([0], (keys[1:] != keys[:-1]).nonzero()[0] + 1))
    totals = np.add.reduceat(weights[order], first)
    kept = ((totals >= least) & (keys[first] >= 0)).nonzero()[0]
    begin, end = first[kept].tolist(), np.append(first, len(keys))[kept + 1].tolist()
    return [
        (key, total, places[a:b].tobytes())
        for key, total, a, b in zip(keys[first[kept]].tolist(), totals[kept].tolist(), begin, end, strict=True)
    ]


def _every_second(at: Places, step: int) -> Places:
    """Of overlapping places (aaa holds aa twice), keep the first, third, … of each run."""
    if not len(at):
        return at
    first = np.concatenate(([True], at[1:] - at[:-1] != step))
    index = np.arange(len(at))
    in_run = index - np.maximum.accumulate(np.where(first, index, 0))
    kept: Places = at[in_run % 2 == 0]
    return kept
