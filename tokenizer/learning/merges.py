"""Learn BPE merges from word counts (Sennrich et al. 2016, "Neural machine translation of rare words with subword units").

All distinct words lie in one flat array of symbols. A symbol's id stands at its first and at its last place,
so that from any symbol both neighbours are one addition away and no links are kept. A pair of symbols comes into being in exactly one
merge, that of its later symbol; from then on it only becomes rarer. So the places of a pair are listed once, and checked when they are
used. Ties fall to the pair with the smaller ids, as in `tokenizers`, with whose merges ours are identical.

Listing the places of all pairs would take several times the memory of the words. So learning goes in stages: a stage knows the pairs
above a threshold only, which are all that can be merged before the most frequent one falls below it. Then the next stage counts anew,
in a shorter array, with a lower threshold.

Pairs that stand equally often are merged at once, up to the first one that touches another, that is, whose left symbol is the right
one of another or the other way round. That is the same as one by one. None of them takes a place from another. And none makes a pair
that comes before another: it would have to stand as often, so that wherever `a b` stands, the same `x` stands in front, and come
earlier in the order of ids. But then so does `x a`, which touches `a b`.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
Symbols = npt.NDArray[Any]  # uint16 where all ids fit, else uint32
Places = npt.NDArray[Any]  # int32 or int64 positions in the flat array
Merge = tuple[int, int, Places]  # left and right symbol of a pair, and where it stands

CHUNK = 1 << 18  # places looked at at a time
BUCKETS = 1 << 20  # sums over pairs that share a hash; late in learning there are a few million distinct pairs
LISTED = 1 << 12  # about so many pairs are above the threshold of a stage
ODD = np.uint64(0x9E3779B97F4A7C15)


def symbol_type(symbols: int) -> np.dtype[Any]:
    """Return the type of ids that holds so many symbols and the two marks."""
    return np.dtype(np.uint16 if symbols + 2 <= 1 << 16 else np.uint32)


def border(dtype: np.dtype[Any]) -> int:
    """Return the mark between two words, for symbols of that type."""
    return int(np.iinfo(dtype).max)


@dataclass(frozen=True)
class Words:
    """The distinct words of a text, those that stand in it equally often in a run.

    Args:
        symbols: [places] base symbols of all words; `border` before the first word and behind each. Of a type from `symbol_type`.
        times: [runs] how often each word of a run stands in the text.
        sizes: [runs] places of its words, with the borders behind them.
        base: Number of base symbols: 0 … base - 1.
    """

    symbols: Symbols
    times: I64
    sizes: I64
    base: int


@dataclass(frozen=True)
class LearntMerges:
    """The merges that were learnt.

    Args:
        merges: Pairs of symbols; merge m makes symbol base + m.
        counts: [base + merges] how often each symbol stands in the text, once all merges are done.
    """

    merges: list[tuple[int, int]]
    counts: I64


def learn(words: Words, most: int, min_count: int, tick: Callable[[int], None]) -> LearntMerges:
    """Learn up to `most` merges.

    Args:
        words: What to learn from; its `symbols` are overwritten.
        most: Merges to learn; fewer if the words support no more.
        min_count: Pairs below this count are not merged.
        tick: Called with the number of merges made since the last call.
    """
    state = _State(words, most)
    merges: list[tuple[int, int]] = []
    while len(merges) < most and (pairs := state.stage(min_count)) is not None:
        while batch := pairs.pop(most - len(merges)):
            state.merge(batch, pairs)
            merges += [(left, right) for left, right, _ in batch]
            tick(len(batch))
    return LearntMerges(merges, state.totals())


class _Pairs:
    """The counts of the pairs that have at least `least`, and a heap of them by falling count.

    The heap's entries hold the pairs' places as bare bytes: most pairs have few, and an array's own hundred bytes would be most of it.
    """

    def __init__(self, least: int, place_type: npt.DTypeLike):
        self.least, self.place_type = least, place_type
        self.count: dict[int, int] = {}
        self.heap: list[tuple[int, int, bytes]] = []
        self.parts: dict[int, list[bytes]] = {}

    def collect(self, keys: I64, places: Places, weights: I64) -> None:
        """Enter the first pairs, or a part of them: key (left << 32 | right), place and word count of each."""
        for key, total, place_bytes in _grouped(keys, places, weights, 1):
            self.count[key] = self.count.get(key, 0) + total
            self.parts.setdefault(key, []).append(place_bytes)

    def ready(self) -> None:
        """Drop the rare pairs and put the others on the heap, once all first pairs are entered."""
        self.count = {key: count for key, count in self.count.items() if count >= self.least}
        self.parts = {key: self.parts[key] for key in self.count}
        self.heap = [(-count, key, b"".join(self.parts.pop(key))) for key, count in self.count.items()]
        heapq.heapify(self.heap)

    def add(self, keys: I64, places: Places, weights: I64) -> None:
        """Enter the pairs of a new symbol."""
        for key, total, place_bytes in _grouped(keys, places, weights, self.least):
            self.count[key] = total
            heapq.heappush(self.heap, (-total, key, place_bytes))

    def subtract(self, keys: I64, weights: I64) -> None:
        """Subtract the pairs that merges destroyed: key and word count of every place."""
        order, first = _groups(keys)
        totals = np.add.reduceat(weights[order], first) if len(keys) else weights
        for key, total in zip(keys[order[first]].tolist(), totals.tolist(), strict=True):
            if key in self.count:
                self.count[key] -= total

    def pop(self, most: int) -> list[Merge]:
        """Take off the heap the most frequent pair and those to merge with it, `most` at most; none if all are too rare."""
        batch: list[Merge] = []
        lefts, rights, equal = set[int](), set[int](), 0
        while self.heap and len(batch) < most and lefts.isdisjoint(rights):
            count, key, places = self.heap[0]
            now, left, right = self.count[key], key >> 32, key & 0xFFFFFFFF
            if now != -count and now >= self.least:
                heapq.heapreplace(self.heap, (-now, key, places))
                continue
            if now == -count:
                if batch and (count != equal or left == right or left in rights or right in lefts):
                    break
                equal = count
                lefts.add(left)
                rights.add(right)
                batch.append((left, right, np.frombuffer(places, dtype=self.place_type)))
            heapq.heappop(self.heap)
            del self.count[key]
        return batch


class _State:
    """The words as they are segmented so far."""

    def __init__(self, words: Words, most: int):
        self.symbols, self.times = words.symbols, words.times
        self.border = border(self.symbols.dtype)
        self.inner = self.border - 1  # inside a symbol
        self.symbol_count = words.base  # symbols there are
        self.size = np.ones(
            words.base + most + 1, dtype=np.int32
        )  # [symbols] places of each; the last stands for the marks
        self.run_ends = np.cumsum(words.sizes)  # [runs] the mark behind the last word of each
        self.place_type = np.int32 if len(self.symbols) < 1 << 31 else np.int64
        self.least = 1 << 63

    def stage(self, min_count: int) -> _Pairs | None:
        """Count the pairs that can be merged next; None if all are below `min_count`."""
        if self.least <= min_count:
            return None
        self._compact()
        sums = np.zeros(BUCKETS, dtype=np.int64)  # at least the count of every pair in the bucket
        for keys, _, times in self._all_pairs():
            np.add.at(sums, _bucket(keys), times)
        listed = np.partition(sums, -LISTED)[-LISTED]
        self.least = max(min(int(listed), int(sums.max()) // 2, self.least - 1), min_count)
        pairs = _Pairs(self.least, self.place_type)
        for keys, places, times in self._all_pairs():
            chosen = sums[_bucket(keys)] >= self.least
            pairs.collect(keys[chosen], places[chosen], times[chosen])
        pairs.ready()
        return pairs

    def _all_pairs(self) -> Iterator[tuple[I64, Places, I64]]:
        """Yield key, place and word count of every pair, some at a time; each symbol has one place (`_compact`)."""
        for start in range(0, len(self.symbols) - 1, CHUNK):
            part = self.symbols[start : start + CHUNK + 1].astype(np.int64)
            at = np.flatnonzero((part[:-1] < self.inner) & (part[1:] < self.inner))
            places = (at + start).astype(self.place_type)
            yield _keys(part[at], part[at + 1]), places, self._times(places)

    def _times(self, places: Places) -> I64:
        """Look up how often the word of each place stands in the text: [places]."""
        return self.times[np.searchsorted(self.run_ends, places)]

    def _compact(self) -> None:
        """Give each symbol one place."""
        filled, half = 0, 0  # half: a symbol has been seen at its first place and not yet at its last
        many = self.size > 1
        for start in range(0, len(self.symbols), CHUNK):
            part = self.symbols[start : start + CHUNK]
            kept = part != self.inner
            twice = np.flatnonzero(kept & many[np.minimum(part, len(many) - 1)])
            kept[twice[1 - half :: 2]] = False
            half = (half + len(twice)) % 2
            first, last = np.searchsorted(self.run_ends, (start, start + len(part)))
            self.run_ends[first:last] = filled - 1 + np.cumsum(kept)[self.run_ends[first:last] - start]
            size = int(np.count_nonzero(kept))
            self.symbols[filled : filled + size] = part[kept]
            filled += size
        self.symbols = self.symbols[:filled]
        self.size[:] = 1

    def merge(self, batch: Sequence[Merge], pairs: _Pairs) -> None:
        """Make new symbols of pairs wherever they still stand side by side."""
        symbols, first = self.symbols, self.symbol_count
        lefts, rights, places = zip(*batch, strict=True)
        left, right = np.array(lefts), np.array(rights)
        new = np.arange(first, first + len(batch))
        self.symbol_count += len(batch)
        self.size[new] = self.size[left] + self.size[right]

        at, which = np.concatenate(places), np.repeat(np.arange(len(batch)), [len(positions) for positions in places])
        stands = (symbols[at] == left[which]) & (symbols[at + self.size[left][which]] == right[which])
        at, which = at[stands], which[stands]
        if lefts[-1] == rights[-1]:
            at = _every_second(np.sort(at), int(self.size[left[0]]))
            which = which[: len(at)]
        middle, end = at + self.size[left][which], at + self.size[new][which]
        symbols[middle] = self.inner
        symbols[middle - 1] = self.inner
        symbols[at] = new[which]
        symbols[end - 1] = new[which]

        # Where two new symbols stand side by side, the left one reports both pairs, the lost and the new.
        before, after = symbols[at - 1].astype(np.int64), symbols[end].astype(np.int64)
        weights = self._times(at)
        a, b = (before < first).nonzero()[0], (after != self.border).nonzero()[0]
        before, after = before[a], after[b]
        was = np.concatenate((np.arange(first), left))[after]
        weights = np.concatenate((weights[a], weights[b]))
        pairs.subtract(np.concatenate((_keys(before, left[which[a]]), _keys(right[which[b]], was))), weights)
        won = np.concatenate((_keys(before, new[which[a]]), _keys(new[which[b]], after)))
        pairs.add(won, np.concatenate((at[a] - self.size[before], at[b])), weights)

    def totals(self) -> I64:
        """Count how often each symbol stands in the text, as it is segmented now: [symbols]."""
        self._compact()
        totals = np.zeros(self.symbol_count, dtype=np.int64)
        for start in range(0, len(self.symbols), CHUNK):
            part = self.symbols[start : start + CHUNK]
            at = np.flatnonzero(part < self.inner)
            np.add.at(totals, part[at], self._times(at + start))
        return totals


def _keys(left: I64, right: I64) -> I64:
    return cast(I64, left << 32 | right)


def _bucket(keys: I64) -> I64:
    return (keys.astype(np.uint64) * ODD >> np.uint64(64 - (BUCKETS - 1).bit_length())).astype(np.int64)


def _groups(keys: I64) -> tuple[I64, I64]:
    """Give [keys] the order that puts equal keys side by side, and [groups] where each group begins in it."""
    order = keys.argsort()
    ordered = keys[order]
    return order, np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(keys)].nonzero()[0]


def _grouped(keys: I64, places: Places, weights: I64, least: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield key, total weight and places, as bytes, of every pair that has at least `least`."""
    if not len(keys):
        return
    order, first = _groups(keys)
    totals = np.add.reduceat(weights[order], first)
    kept = (totals >= least).nonzero()[0]
    begin, end = first[kept].tolist(), np.append(first, len(keys))[kept + 1].tolist()
    places = places[order]
    for key, total, a, b in zip(keys[order[first[kept]]].tolist(), totals[kept].tolist(), begin, end, strict=True):
        yield key, total, places[a:b].tobytes()


def _every_second(at: Places, step: int) -> Places:
    """Keep the first, third, … of each run of overlapping places (aaa holds aa twice)."""
    if not len(at):
        return at
    first = np.concatenate(([True], at[1:] - at[:-1] != step))
    index = np.arange(len(at))
    in_run = index - np.maximum.accumulate(np.where(first, index, 0))
    kept: Places = at[in_run % 2 == 0]
    return kept
