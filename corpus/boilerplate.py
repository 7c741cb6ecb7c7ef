"""Sentences that belong to the publisher and not to the article, at the end of abstracts."""

import re

TRUNCATED = re.compile(r"\s*\(?ABSTRACT TRUNCATED(?: AT \d+ WORDS)?\)?\.?\s*$")
COPYRIGHT = re.compile(
    r"\s*(?:(?:Copyright|©|\(c\))\s*){1,3}\(?(?:19|20)\d\d[^.!?]{0,120}(?:\.[^.!?]{0,80}){0,3}\.?\s*$", re.I
)  # from the mark and the year to the end, no more than a line or two


def without_boilerplate(text: str) -> str:
    """An abstract's last paragraph without a copyright line or a note that it was truncated."""
    if "opyright" not in text and "©" not in text and "TRUNCATED" not in text and "(c)" not in text:
        return text
    tail = max(0, len(text) - 250)
    return text[:tail] + COPYRIGHT.sub("", TRUNCATED.sub("", text[tail:]))
