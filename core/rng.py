"""Compute random numbers as pure functions of (seed, stream, counter): nothing to save, nothing to restore.

A generator with state must be replayed to resume a run, and gives other numbers on another number of processes. Here the i-th
number is a hash of its counter, so masks, packing and order can be recomputed for any step, anywhere. The hash is the finaliser of
SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"), applied twice: once to fold the keys
together, once per counter.
"""

import zlib

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

GOLDEN_GAMMA = 0x9E3779B97F4A7C15  # SplitMix64's increment: 2^64 / golden ratio, odd
MASK64 = (1 << 64) - 1


def _mix(x: U64) -> U64:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key(seed: int, *parts: int | str) -> int:
    """Fold a seed and any number of names or numbers into one 64-bit key."""
    state = seed & MASK64
    for part in parts:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else part
        folded = np.array([(state * 3 + (number & MASK64) + GOLDEN_GAMMA) & MASK64], dtype=np.uint64)
        state = int(_mix(folded)[0])
    return state


def bits(key: int, counters: npt.NDArray[np.integer]) -> U64:
    """Compute 64 random bits for every counter.

    Args:
        key: From `key(...)`.
        counters: Any shape; equal counters give equal bits.
    """
    x = counters.astype(np.uint64) * np.uint64(GOLDEN_GAMMA) + np.uint64(key)
    return _mix(_mix(x))


def uniform(key: int, counters: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Compute uniform numbers in [0, 1) with 53 random bits, one for every counter."""
    return (bits(key, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(key: int, counters: npt.NDArray[np.integer], low: int, high: int) -> npt.NDArray[np.int64]:
    """Compute integers in [low, high), one for every counter; the bias is below (high - low) / 2^53."""
    return low + np.floor(uniform(key, counters) * (high - low)).astype(np.int64)


def permutation(key: int, n: int) -> npt.NDArray[np.int64]:
    """Compute a random order of 0 … n-1: the argsort of n hashed counters (ties, about n²/2^65 likely, fall to the smaller index)."""
    return np.argsort(bits(key, np.arange(n, dtype=np.uint64)), kind="stable").astype(np.int64)
