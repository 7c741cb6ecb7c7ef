"""Searching in long records: stringzilla's SIMD instructions, or Python's own functions, which give the same ten times more slowly."""

from collections.abc import Callable

try:
    import stringzilla  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    find: Callable[..., int] = bytes.find
    count: Callable[..., int] = bytes.count
    find_text: Callable[..., int] = str.find
else:
    find, count, find_text = stringzilla.find, stringzilla.count, stringzilla.find
