"""Relations as texts to classify: a sentence for each pair of its entities, the two replaced by marks (`@CHEMICAL$`, `@GENE$`).

BLURB's way (Gu et al. 2021, after Peng et al. 2019): the model does not see which drug it is, only where the two stand. Two entities
that overlap become one mark.
"""

import re
from collections.abc import Iterator, Sequence

from biomlm.finetune.data.iob_tags import Span

BORDER = re.compile(r"[.?!][\"')\]]*\s+(?=[A-Z0-9(\[\"'])|[\t\n]\s*")
SHORTENED = re.compile(r"\b(?:e\.g|i\.e|et al|vs|cf|ca|approx|Figs?|No|Dr|St|sp|spp)\.\s+$")


def sentences(text: str, entities: Sequence[Span]) -> Iterator[tuple[int, int]]:
    """Sentences as characters of a text: cut behind a full stop before a capital or a digit, and never inside an entity."""
    start = 0
    for match in BORDER.finditer(text):
        inside = any(span.start < match.end() and match.start() + 1 < span.stop for span in entities)
        if not inside and not SHORTENED.search(text, start, match.end()):
            yield start, match.end()
            start = match.end()
    if start < len(text):
        yield start, len(text)


def marked(text: str, ends: tuple[Span, Span], both: str) -> str:
    """A sentence with its two entities replaced.

    Args:
        text: The sentence.
        ends: The entities, in characters of the sentence; their types become the marks.
        both: The mark's name where the two overlap.
    """
    first, last = sorted(ends)
    if last.start < first.stop:
        return f"{text[: first.start]}@{both}${text[max(first.stop, last.stop) :]}"
    middle = text[first.stop : last.start]
    return f"{text[: first.start]}@{first.type}${middle}@{last.type}${text[last.stop :]}"


def shifted(span: Span, start: int) -> Span:
    """An entity of a text in characters of its sentence, which begins at `start`."""
    return Span(span.start - start, span.stop - start, span.type)
