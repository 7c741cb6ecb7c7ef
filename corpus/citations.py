"""Taking citation call-outs out of running text without leaving debris.

A reader marks each call-out with two private characters; `without_callouts` then decides. Numbers go, with the brackets, separators and
connecting words that only serve them: `as shown previously [1, 3–5].` → `as shown previously.` Names stay where they are part of the
sentence (`Smith et al. (2010) showed`) and go where they stand in brackets of their own (`(Smith, 2010; Lee, 2011)`).
"""

import re

OPEN, CLOSE = "\ue000", "\ue001"
MARKS = str.maketrans("", "", OPEN + CLOSE)

CALLOUT = f"{OPEN}[^{OPEN}{CLOSE}]*{CLOSE}"
NUMBER = rf"{OPEN}[\s\[(]*(?:refs?\.?\s*)?[\d\s,;*†‡§–—‐‑−+-]+[a-z]?[\s\])]*{CLOSE}"
JOINT = r"(?:[\s,;:.&–—‐‑−\-]|and\b|or\b|to\b)*"
LEAD = (
    r"(?:(?:but\s+)?(?:see|e\.?g\.?|i\.?e\.?|cf\.?|for|reviewed|review|reviews|also|example|in|by|and|refs?\.?|references?|"
    r"therein|within|among|others|data\s+from|from|as|well)[\s,:.]*)*"
)
GROUP = re.compile(rf"\s*[(\[]\s*{LEAD}{CALLOUT}(?:{JOINT}{LEAD}{CALLOUT})*{JOINT}{LEAD}[)\]]", re.I)
NUMBERS = re.compile(rf"\s*{NUMBER}(?:{JOINT}{NUMBER})*")
EMPTY = re.compile(r"\s*(?:\(\s*[,;:.–—-]*\s*\)|\[\s*[,;:.–—-]*\s*\])")
BEFORE_MARK = re.compile(r"\s+(?=[,.;:!?)\]])")
DOUBLED = re.compile(r"([,;])(?:\s*[,;])+")
STOPPED = re.compile(r"[,;]+(?=[.)\]])")


def without_callouts(text: str) -> str:
    """Remove the call-outs marked in `text`, and the marks."""
    if OPEN not in text:
        return text
    text = GROUP.sub("", text)
    text = NUMBERS.sub("", text)
    text = text.translate(MARKS)
    text = EMPTY.sub("", text)
    text = BEFORE_MARK.sub("", text)
    return STOPPED.sub("", DOUBLED.sub(r"\1", text))
