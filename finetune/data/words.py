"""How a training fold's words are cut, so that a text to predict is cut as they are.

A file of words (IOB, JSON lists) does not hold the text that its words were cut from. It does show which marks stand alone and which stay
in a word, at which place: `IL-2` or `IL - 2`, `vs.` or `vs .`. From that a rule is learnt that cuts running text the same way.
"""

from collections import Counter
from collections.abc import Sequence

from biomlm.finetune.data.records import Tagged
from biomlm.tokenizer.encoding.cutting import Cutting, pieces

RARE = 100  # a mark that ends sentences stands alone far more often than between letters; once in so many is the file's habit


def learn_cutting(records: Sequence[Tagged]) -> Cutting:
    """Learn the rule by which a training fold's words are cut."""
    apart, counts = True, Counter[tuple[str, str]]()
    words = Counter[str]()
    for record in records:
        starts = [start for start, _ in record.words[1:]]
        apart = apart and all(record.text[start - 1].isspace() for start in starts)
        words.update(record.text[start:stop] for start, stop in record.words)
    for word, number in words.items():
        for start, _, place in pieces(word):
            if place:
                counts[place, word[start]] += number
    marks = sorted({mark for _, mark in counts})
    inside = [m for m in marks if counts["inside", m] and RARE * counts["inside", m] >= counts["alone", m]]
    front, end = ([m for m in marks if counts[place, m] > counts["alone", m]] for place in ("front", "end"))
    return Cutting(apart, "".join(inside), "".join(front), "".join(end))
