"""Long texts in windows with overlap: every piece belongs to exactly one window, the one in which it stands furthest from an edge.

A piece near the edge of a window lacks half of its context; with overlap it is labelled where it has the most. Because what windows
own covers the text without gap or double count, no label is lost at a window's end and none counts twice.
"""

from itertools import pairwise
from typing import NamedTuple


class Window(NamedTuple):
    """Pieces [start, stop) are read; those in [own_start, own_stop) are labelled."""

    start: int
    stop: int
    own_start: int
    own_stop: int


def windows(pieces: int, size: int, overlap: int) -> list[Window]:
    """Cover a text.

    Args:
        pieces: Its length.
        size: Most pieces in a window.
        overlap: Pieces that neighbouring windows share, below `size`; the last two may share more.
    """
    assert 0 <= overlap < size
    starts = [0]
    while starts[-1] + size < pieces:
        starts.append(min(starts[-1] + size - overlap, pieces - size))
    # the border between two neighbours is the middle of what they share
    borders = [0, *((left + size + right) // 2 for left, right in pairwise(starts)), pieces]
    stops = [min(start + size, pieces) for start in starts]
    return [Window(*ends, *own) for ends, own in zip(zip(starts, stops, strict=True), pairwise(borders), strict=True)]
