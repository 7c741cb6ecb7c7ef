"""Taking citation call-outs out of running text without leaving debris.

A reader marks each call-out with two control characters; `without_callouts` then decides. Numbers go, with the brackets, separators and
connecting words that only serve them: `as shown previously [1, 3–5].` → `as shown previously.` Names stay where they are part of the
sentence (`Smith et al. (2010) showed`) and go where they stand in brackets of their own (`(Smith, 2010; Lee, 2011)`). Words that are left
with nothing to point to go, too: `as described by [1].` → `as described.`, `In [1], mice were` → `Mice were`. Only the neighbourhood of a
call-out is looked at, so the rest of the text cannot change.
"""

import re

OPEN, CLOSE = "\1", "\2"  # no XML has them, so they stand in pairs
GONE = "\0"  # stands for what is taken out, until it is known whether a blank before it goes too; no XML has it
BEFORE, BETWEEN, AFTER = (
    60,
    40,
    8,
)  # characters: left of a call-out, between two that are treated together, right of one

CALLOUT = f"{OPEN}[^{OPEN}{CLOSE}]*{CLOSE}"
# Every turn of these loops takes one mark or one whole word, in one way only, and gives nothing back: they cannot backtrack for long.
NUMBER = rf"{OPEN}[\s\[(]*+(?:refs?\.?)?(?:[\d\s,;*†‡§–—‐‑−+-]++|(?<=\s))[a-z]?[\s\])]*+{CLOSE}"
JOINT = r"(?:[ ,;:.&–—‐‑−-]|(?:and|or|to)\b)*"
GLUE = (
    r"(?:[ ,;:.&–—‐‑−-]|(?:and|or|to|but|see|e\.?g|i\.?e|cf|for|an?|recent(?:ly)?|review(?:s|ed)?|also|example|in|by|refs?|references?|"
    r"therein|within|among|others|data|from|as|well|the)\b)*"
)
GROUP = re.compile(rf"[(\[]{GLUE}{CALLOUT}(?:{GLUE}{CALLOUT})*{GLUE}[)\]]", re.I)
NUMBERS = re.compile(rf"{NUMBER}(?:{JOINT}{NUMBER})*")
_POINTING = r"(?:as|such|see|also|by|in|from|to|of|with|than|at|per|on|via|refs?|references?|e\.g|i\.e|cf|following|according|and|or)"
START = "\3"  # stands before the first word of a text; no XML has it
BEGINNING = rf"(?:{START}|(?<=[.!?] ))"
# A sentence of its own, one that begins with such words, and such words anywhere else but there.
ALONE = re.compile(rf"{BEGINNING}(?:see|see also|cf\.?|reviewed in) ?{GONE} ?\. ?", re.I)
LEADING = re.compile(
    rf"{BEGINNING}(?!see|refs?\b|references?)(?-i:(?=[A-Z]))(?:{_POINTING}\.?,? )++{GONE} ?,? ?([^\W\d_])", re.I
)
POINTING = re.compile(
    rf"(?<![^ (\[{START}])(?!(?<=[.!?] )(?-i:[A-Z]))(?:(?:{_POINTING}\b\.?,? ){{1,20}}+|{_POINTING}\b\.?,?){GONE}", re.I
)
DEBRIS = re.compile(r" [,.;:!?)\]]|[(\[] ?[,;:.)\]]|[,;] ?[,;.)\]]|\. ?\.")
HOLLOW = r"(?:[ ,;:.]|(?:see|also|e\.?g|i\.?e|cf|reviewed|reviews?|in|refs?|references?)\b)*"
EMPTY = re.compile(rf" ?(?:\({HOLLOW}\)|\[{HOLLOW}\])")  # brackets with nothing but connecting words left in them
OPENING = re.compile(r"(?<=[(\[])[ ,;]+(?=\S)")
TWO_STOPS = re.compile(r"(?<!\.)\. ?\.(?=\s|$)")
BEFORE_MARK = re.compile(r" (?=[,.;:!?)\]])")
DOUBLED = re.compile(r"([,;])(?: ?[,;])+")
STOPPED = re.compile(r"(?<![,;])[,;]++(?=[.)\]])")


def without_callouts(text: str) -> str:
    """Remove the call-outs marked in `text`, and the marks; where there are any, white-space runs become one blank."""
    if OPEN not in text:
        return text
    if "  " in text or not text.replace(OPEN, "").replace(CLOSE, "").isprintable():  # the marks are not printable
        text = " ".join(text.split())
    done, parts = 0, list[str]()
    start = text.find(OPEN)
    while start >= 0:
        stop = text.index(CLOSE, start) + 1
        following = text.find(OPEN, stop)
        while 0 <= following < stop + BETWEEN:
            stop = text.index(CLOSE, following) + 1
            following = text.find(OPEN, stop)
        left, right = max(done, start - BEFORE), min(len(text), stop + AFTER)
        if following >= 0:
            right = min(right, following)
        parts += (text[done:left], _mended(text[left:right], left == 0))
        done, start = right, following
    return "".join((*parts, text[done:]))


def _mended(text: str, first: bool) -> str:
    """Return a stretch of text around call-outs, without them; `first` if the text begins here."""
    if first:
        text = START + text
    if "(" in text or "[" in text:
        text = GROUP.sub(GONE, text)
    if OPEN in text:
        text = NUMBERS.sub(GONE, text).replace(OPEN, "").replace(CLOSE, "")
    if GONE in text:
        text = LEADING.sub(lambda match: match[1].upper(), ALONE.sub("", text))
        text = EMPTY.sub("", POINTING.sub(GONE, text).replace(" " + GONE, "").replace(GONE, ""))
    text = text.replace(START, "")
    if not DEBRIS.search(text):
        return text
    text = OPENING.sub("", EMPTY.sub("", text))
    return TWO_STOPS.sub(".", STOPPED.sub("", DOUBLED.sub(r"\1", BEFORE_MARK.sub("", text))))
