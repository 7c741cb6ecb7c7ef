"""How words are cut from a text where a model labels words: by which marks stand alone and which stay in a word, at which place.

`finetune.data.words` learns the rule from a training fold.
"""

import re
from dataclasses import dataclass

PIECE = re.compile(r"[^\W_]+|[^\s\w]|_")  # runs of letters and digits; every other mark by itself
CHUNK = re.compile(r"\S+")


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

    def spelled(self, text: str) -> list[str]:
        """Cut a text into words as the tokenizer is given them: with the blank before each, but for one that follows another directly where
        the training fold's words do so too.
        """
        return [with_blank(text, start, stop, apart=self.apart) for start, stop in self.words(text)]

    def words(self, text: str) -> list[tuple[int, int]]:
        """Cut a text into words: (first character, the one behind the last), ascending."""
        places: list[tuple[int, int]] = []
        for chunk in CHUNK.finditer(text):
            stuck = False  # whether the piece before holds on to the next one
            for start, stop, place in pieces(chunk[0]):
                holds = not place or chunk[0][start] in getattr(self, place, "")
                if stuck and holds:
                    places[-1] = (places[-1][0], chunk.start() + stop)
                else:
                    places.append((chunk.start() + start, chunk.start() + stop))
                stuck = holds
        return places


def pieces(chunk: str) -> list[tuple[int, int, str]]:
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


def with_blank(text: str, start: int, stop: int, *, apart: bool) -> str:
    """Return a word with the blank before it, unless it follows another word directly and the training fold's words do so too."""
    glued = not apart and start > 0 and not text[start - 1].isspace()
    return text[start:stop] if glued else f" {text[start:stop]}"
