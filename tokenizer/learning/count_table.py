"""Count byte strings in NumPy columns: a dozen times smaller than a dictionary of strings, and several times faster.

Strings of up to 8, 16 and 32 bytes are rows of 1, 2 and 4 unsigned numbers, padded with zero bytes, so that equal ones are found by
sorting numbers. Rows of several numbers are sorted by a hash; should two strings ever share one, that batch is sorted in full. Longer
strings are rare in text and go to a dictionary.
"""

from collections import Counter

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

WIDTHS = (8, 16, 32)  # bytes
PAD = WIDTHS[-1]  # zero bytes that must follow a text
MASK = np.array(
    [(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64
)  # keeps the first n bytes of a little-endian number
ODD = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93], dtype=np.uint64)


def padded(text: bytes) -> U8:
    """Give a text as numbers, followed by the zero bytes that reading in eights needs."""
    return np.frombuffer(text + bytes(PAD), dtype=np.uint8)


def eights(text: U8, start: I64, length: I64, width: int) -> U64:
    """Give strings as little-endian numbers of eight bytes, zeros behind their ends: [strings, width / 8].

    Args:
        text: From `padded`.
        start: [strings] where each begins.
        length: [strings] its bytes, `width` at most.
        width: A multiple of 8.
    """
    at: U64 = np.ndarray(
        (len(text) - 7,), dtype="<u8", buffer=text, strides=(1,)
    )  # the eight bytes from every place on
    rows = np.empty((len(start), width // 8), dtype=np.uint64)
    for lane in range(width // 8):
        rows[:, lane] = at[start + 8 * lane] & MASK[np.clip(length - 8 * lane, 0, 8)]
    return rows


class CountTable:
    """Distinct strings and their counts."""

    def __init__(self) -> None:
        self.rows: dict[int, U64] = {width: np.zeros((0, width // 8), dtype=np.uint64) for width in WIDTHS}
        self.counts: dict[int, I64] = {width: np.zeros(0, dtype=np.int64) for width in WIDTHS}
        self.long: Counter[bytes] = Counter()
        self.waiting: dict[int, list[tuple[U64, I64]]] = {width: [] for width in WIDTHS}

    def count(self, text: U8, start: I64, length: I64, times: I64) -> None:
        """Count strings that lie in a text.

        Args:
            text: From `padded`; no string holds a zero byte.
            start: [strings] where each begins.
            length: [strings] its bytes.
            times: [strings] how often it counts.
        """
        shortest = 0
        for width in WIDTHS:
            fits = ((length > shortest) & (length <= width)).nonzero()[0]
            shortest = width
            if len(fits):
                self.waiting[width].append(_sum_equal([(eights(text, start[fits], length[fits], width), times[fits])]))
                if sum(len(counts) for _, counts in self.waiting[width]) > len(self.counts[width]):
                    self._settle(width)
        for i in (length > shortest).nonzero()[0].tolist():
            self.long[text[start[i] : start[i] + length[i]].tobytes()] += int(times[i])

    def _settle(self, width: int) -> None:
        parts = [(self.rows.pop(width), self.counts.pop(width)), *self.waiting[width]]
        self.waiting[width].clear()
        self.rows[width], self.counts[width] = _sum_equal(parts)

    @property
    def size(self) -> int:
        """The bytes held, about."""
        waiting = sum(rows.nbytes + counts.nbytes for parts in self.waiting.values() for rows, counts in parts)
        return sum(self.rows[w].nbytes + self.counts[w].nbytes for w in WIDTHS) + waiting + 200 * len(self.long)

    def flat(self) -> tuple[U8, I64, I64]:
        """Give all strings end to end (padded), the length of each, and its count; equal content gives equal arrays."""
        texts, lengths, counts = [], [], []
        for width in WIDTHS:
            self._settle(width)
            characters = self.rows[width].astype("<u8").view(np.uint8).reshape(-1, width)
            texts.append(characters[characters != 0])
            lengths.append(np.count_nonzero(characters, axis=1).astype(np.int64))
            counts.append(self.counts[width])
        long = sorted(self.long)
        texts.append(padded(b"".join(long)))
        lengths.append(np.array([len(string) for string in long], dtype=np.int64))
        counts.append(np.array([self.long[string] for string in long], dtype=np.int64))
        return np.concatenate(texts), np.concatenate(lengths), np.concatenate(counts)


def _sum_equal(parts: list[tuple[U64, I64]]) -> tuple[U64, I64]:
    """Give the distinct rows and the sum of each one's counts; the list is emptied, so that its memory is free for the sorting."""
    rows, counts = parts[0] if len(parts) == 1 else (np.concatenate(column) for column in zip(*parts, strict=True))
    parts.clear()
    if not len(rows):
        return rows, counts
    key = rows[:, 0]
    if rows.shape[1] > 1:
        key = key * ODD[0]
        for lane, odd in zip(
            rows.T[1:], ODD[1:], strict=False
        ):  # much quicker than a reduction along rows of a few numbers
            key += lane * odd
    order = key.argsort()
    rows, counts, key = rows[order], counts[order], key[order]
    new = _changes(rows)
    if rows.shape[1] > 1 and np.count_nonzero(new) != np.count_nonzero(_changes(key[:, None])):
        order = np.lexsort(rows.T)  # two strings share a hash
        rows, counts = rows[order], counts[order]
        new = _changes(rows)
    first = new.nonzero()[0]
    return rows[first], np.add.reduceat(counts, first)


def _changes(rows: U64) -> npt.NDArray[np.bool_]:
    """Say of each row whether it differs from the one before: [rows]."""
    new = np.zeros(len(rows), dtype=np.bool_)
    new[0] = True
    for lane in rows.T:
        new[1:] |= lane[1:] != lane[:-1]
    return new
