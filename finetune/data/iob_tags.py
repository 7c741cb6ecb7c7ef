"""Entities in a row of IOB tags: what conlleval and seqeval call a chunk, and the two ways of writing it.

In IOB2 every entity begins with `B-`; in IOB1 only one that follows another of its type at once. Both are read by the same rule
(conlleval, Tjong Kim Sang and Buchholz 2000): an entity begins at `B-`, at `I-` after `O`, and at `I-` of another type.

IOBES marks an entity's last word `E-` and a single one `S-`; BIOUL, or BILOU, writes `L-` and `U-` for them. They are read by conlleval's
rule, which knows the former: behind an end nothing goes on.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

TAG = re.compile(r"O|[BIESLU](-.+)?")
ENDING = {"IOBES": "ES", "BIOUL": "LU"}  # letters that only one scheme has
UNTYPED = "_"  # seqeval's name for the type of a bare `B` or `I`


class Span(NamedTuple):
    """An entity: its first unit, the one behind its last, and its type. Units are words or characters, as the context says."""

    start: int
    stop: int
    type: str


def tag_type(tag: str) -> str:
    """Return a tag's type: `B-Disease` → `Disease`; a bare `B` → `_`; `O` → nothing."""
    return "" if tag == "O" else tag[2:] or UNTYPED


def entities(tags: Sequence[str]) -> list[Span]:
    """Find the entities in a row of tags, in words, ascending."""
    spans: list[Span] = []
    start = 0
    for i, tag in enumerate([*tags, "O"]):
        before = tags[i - 1] if i else "O"
        begins = tag[0] == "B" or tag_type(tag) != tag_type(before)
        if begins and before != "O":
            spans.append(Span(start, i, tag_type(before)))
        if begins:
            start = i
    return spans


def iob(tags: Sequence[str]) -> list[str]:
    """Rewrite tags of any scheme with the letters of IOB alone: the same entities."""
    letters = []
    for before, tag in zip(["O", *tags], tags, strict=False):
        goes_on = before[0] in "BI" and tag_type(before) == tag_type(tag)
        letter = tag[0]
        if letter in "SU" or (letter in "EL" and not goes_on) or (letter == "I" and before[0] in "ESLU"):
            letter = "B"
        letters.append(("I" if letter in "EL" else letter) + tag[1:])
    return letters


def iob2(tags: Sequence[str]) -> list[str]:
    """Rewrite IOB tags with `B-` before each entity."""
    written = ["O"] * len(tags)
    for start, stop, kind in entities(tags):
        suffix = "" if kind == UNTYPED else f"-{kind}"
        written[start:stop] = [f"B{suffix}"] + [f"I{suffix}"] * (stop - start - 1)
    return written


def breaks_iob2(before: str, tag: str) -> bool:
    """Whether a tag is an `I-` that continues nothing."""
    return tag[0] == "I" and tag_type(tag) != tag_type(before)


def breaks_scheme(before: str, tag: str) -> bool:
    """Whether a tag among tags with marked ends goes on with nothing, or leaves an entity without its end."""
    is_open, goes_on = before[0] in "BI", tag[0] in "IEL"
    return is_open != goes_on or (goes_on and tag_type(tag) != tag_type(before))


def breaks_iob1(before: str, tag: str) -> bool:
    """Whether a tag is a `B-` that does not part two entities of one type."""
    return tag[0] == "B" and tag_type(tag) != tag_type(before)
