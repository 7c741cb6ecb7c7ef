"""How a training fold's words are cut, so that a text to predict is cut as they are.

A file of words (IOB, JSON lists) does not hold the text that its words were cut from. It does show which marks stand alone and which stay
in a word, at which place: `IL-2` or `IL - 2`, `vs.` or `vs .`. From that a rule is learnt that cuts running text the same way.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from biomlm.finetune.data.records import Tagged

PIECE = re.compile(r"[^\W_]+|[^\s\w]|_")  # runs of letters and digits; every other mark by itself
CHUNK = re.compile(r"\S+")
RARE = 100  # a mark that ends sentences stands alone far more often than between letters; once in so many is the file's habit


@dataclass(frozen=True)
class Cutting:
    """Where words begin and end.

    Args:
        apart: Every word is read with a blank in front, as in a file of words; else as it stands in the text.
        inside: Marks that stay in a word between two of its letters or digits.
        front: Marks that stay at a word's front.
        end: Marks that stay at a word's end.
    """

    apart: bool = False
    inside: str = ""
    front: str = ""
    end: str = ""

    def __str__(self) -> str:
        """Say the rule in a line, as it was learnt from the training file."""
        kept = [f"{' '.join(marks)} {place}" for place, marks in self._kept.items() if marks]
        stay = f", but for {', '.join(kept)}" if kept else ""
        read = "each read with a blank in front" if self.apart else "read as they stand in the text"
        return f"cut at blanks and at every mark{stay}; {read}"

    @property
    def _kept(self) -> dict[str, str]:
        return {"inside words": self.inside, "at their front": self.front, "at their end": self.end}

    def words(self, text: str) -> list[tuple[int, int]]:
        """Cut a text into words: (first character, the one behind the last), ascending."""
        places: list[tuple[int, int]] = []
        for chunk in CHUNK.finditer(text):
            stuck = False  # whether the piece before holds on to the next one
            for start, stop, place in _pieces(chunk[0]):
                holds = not place or chunk[0][start] in getattr(self, place, "")
                if stuck and holds:
                    places[-1] = (places[-1][0], chunk.start() + stop)
                else:
                    places.append((chunk.start() + start, chunk.start() + stop))
                stuck = holds
        return places


def learn_cutting(records: Sequence[Tagged]) -> Cutting:
    """Learn the rule by which a training fold's words are cut."""
    apart, counts = True, Counter[tuple[str, str]]()
    words = Counter[str]()
    for record in records:
        starts = [start for start, _ in record.words[1:]]
        apart = apart and all(record.text[start - 1].isspace() for start in starts)
        words.update(record.text[start:stop] for start, stop in record.words)
    for word, number in words.items():
        for start, _, place in _pieces(word):
            if place:
                counts[place, word[start]] += number
    marks = sorted({mark for _, mark in counts})
    inside = [m for m in marks if counts["inside", m] and RARE * counts["inside", m] >= counts["alone", m]]
    front, end = ([m for m in marks if counts[place, m] > counts["alone", m]] for place in ("front", "end"))
    return Cutting(apart, "".join(inside), "".join(front), "".join(end))


def _pieces(chunk: str) -> list[tuple[int, int, str]]:
    """Cut what stands between blanks: start, stop, and for a mark its place: inside, front, end or alone."""
    spans = [match.span() for match in PIECE.finditer(chunk)]
    plain = [chunk[start].isalnum() for start, _ in spans]
    if True not in plain:
        return [(start, stop, "alone") for start, stop in spans]
    first, last = plain.index(True), len(plain) - 1 - plain[::-1].index(True)
    return [
        (start, stop, "" if plain[i] else "front" if i < first else "end" if i > last else "inside")
        for i, (start, stop) in enumerate(spans)
    ]
