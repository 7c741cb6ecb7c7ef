r"""Sentence boundaries by rule: quick enough for every abstract in PubMed, careful with what biomedical text is full of.

A boundary is a run of `.`, `!` or `?` (with closing quotes or brackets) before white space, unless the word before it is a known
abbreviation or an initial, or what follows starts in lower case. No boundary falls inside a `[** … **]` placeholder.
"""

import re
from bisect import bisect
from collections.abc import Iterator

MARKS = re.compile(r"[.!?…]++(?:[\"'”’)\]]*+(\s++)(?=\S))?")  # all runs of them: so each is looked at once
AFTER_END = re.compile(r"[a-z0-9)\]][.!?]\s([^\W\d_])")
LOOKED_AT = 4000  # characters by which it is known how sentences begin
LAST_WORD = re.compile(r"[^\s(\[\"'“‘/–—]+$")

# Followed by a name or a number, so the next word's capital says nothing.
_NEVER_END = """
fig figs eq eqs ref refs tab tabs suppl supp vol no nos nr pp p ca cf vs v viz e.g i.e eg ie resp approx incl excl esp
dr drs prof mr mrs ms st ste mt sr jr hon rev gen sen rep sgt capt
proc natl acad sci chem biol phys med lett
al spp sp subsp var cv str ssp nov
y.o pt hct hgb cr disp
i.v i.p i.m s.c p.o q.d b.i.d t.i.d q.i.d p.r.n min max avg temp dept univ assoc
jan feb mar apr jun jul aug sep sept oct nov dec
"""
NEVER_END = frozenset(_NEVER_END.split())
# May end a sentence: a boundary only if a capital follows that is not a mere initial.
_MAY_END = "etc inc ltd co corp u.s u.k u.s.a e.u a.m p.m ph.d m.d d.c jr sr al sp spp a.c b.c"
MAY_END = frozenset(_MAY_END.split())
LONGER = max(map(len, NEVER_END | MAY_END)) + 1  # letters that no abbreviation has


def placeholders(text: str) -> Iterator[tuple[int, int]]:
    """Yield `(start, end)` of every `[** … **]` of a de-identified text, ascending; the time is in proportion to the text's length."""
    start = text.find("[**")
    while start >= 0 and (closing := text.find("**]", start + 3)) >= 0:
        yield start, closing + 3
        start = text.find("[**", closing + 3)


def is_lower_case(text: str) -> bool:
    """Return whether sentences begin in lower case, as in many nursing notes: what follows most end marks, numbers aside, does."""
    firsts = AFTER_END.findall(text, 0, LOOKED_AT)
    return len(firsts) > 1 and sum(map(str.islower, firsts)) > 0.8 * len(firsts)


def spans(text: str, lower_case: bool = False) -> list[tuple[int, int]]:
    """Find where the sentences of one block lie.

    Args:
        text: A paragraph without surrounding white space.
        lower_case: Sentences begin in lower case, too (see `is_lower_case`).

    Returns:
        `(start, end)` of every sentence, ascending, without surrounding white space; together they cover all else.
    """
    if not text:
        return []
    offsets: list[tuple[int, int]] = []
    kept_whole = list(placeholders(text))
    start = 0
    for match in MARKS.finditer(text):
        blank, after = match.span(1)
        if blank < 0 or (not lower_case and text[after].islower()):
            continue
        stop = match.start()
        if kept_whole:
            before = bisect(kept_whole, (stop, len(text))) - 1  # of the placeholder that begins at or before the mark
            if before >= 0 and stop < kept_whole[before][1] - 1:
                continue
        long_word = stop - start >= LONGER and text[stop - LONGER : stop].isalpha()
        if long_word or _is_boundary(text, start, stop, after, lower_case):
            offsets.append((start, blank))
            start = after
    offsets.append((start, len(text)))
    return offsets


def _is_boundary(text: str, start: int, stop: int, after: int, lower_case: bool) -> bool:
    """Return whether the mark at `stop` ends the sentence that began at `start`; the next word begins at `after`."""
    following = text[after]
    if text[stop] != ".":
        return True
    word = LAST_WORD.search(text, max(start, stop - 24), stop)
    if word is None:
        return True
    last = word[0].lower()
    if last in MAY_END:
        if following.islower():
            return False
        return last not in NEVER_END and not _is_initial(text, after)
    if last in NEVER_END:
        return False
    if len(last) == 1 and last.isalpha():
        if lower_case and following.islower():  # `q. day`, `s. aureus`
            return False
        return not _is_name_initial(text, start, stop, after)
    return True


def _is_initial(text: str, at: int) -> bool:
    return text[at + 1 : at + 2] == "."


def _is_name_initial(text: str, start: int, stop: int, after: int) -> bool:
    """Return whether the letter before the mark is an initial: `J. Smith` goes on, `vitamin C. The` does not."""
    if not text[stop - 1].isupper():
        return True
    if stop - 1 == start or _is_initial(text, after):
        return True
    before = text[start : stop - 1].rstrip().rsplit(None, 1)
    return (
        bool(before)
        and (before[-1][:1].isupper() or before[-1].lower() in {"by", "and", "&", "with"})
        and text[after].isupper()
    )
