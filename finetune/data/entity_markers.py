"""Relations as texts to classify: a sentence for each pair of its entities, the two replaced by marks (`@CHEMICAL$`, `@GENE$`).

BLURB's way (Gu et al. 2021, after Peng et al. 2019): the model does not see which drug it is, only where the two stand. Two entities
that overlap become one mark.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from biomlm.finetune.data.iob_tags import Span
from biomlm.inputs.sentences import spans

BLOCK = re.compile(r"[^\t\n]+")


def sentences(text: str, entities: Sequence[Span]) -> Iterator[tuple[int, int]]:
    """Give the sentences as characters of a text, which together are all of it; those that share an entity are one."""
    starts = [block.start() + first for block in BLOCK.finditer(text) for first, _ in spans(block[0])]
    cuts = [at for at in starts[1:] if not any(entity.start < at < entity.stop for entity in entities)]
    if text:
        yield from pairwise([0, *cuts, len(text)])


def mark_entities(text: str, ends: tuple[Span, Span], both: str) -> str:
    """Replace the two entities of a sentence by marks.

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


def shift_span(span: Span, start: int) -> Span:
    """Express an entity of a text in characters of its sentence, which begins at `start`."""
    return Span(span.start - start, span.stop - start, span.type)
