"""Sentences that belong to the publisher and not to the article, at the end of abstracts."""

import re

TRUNCATED = re.compile(r"(?<!\s)\s*+\(?ABSTRACT TRUNCATED(?: AT \d+ WORDS)?\)?\.?\s*$")
COPYRIGHT = re.compile(
    r"(?<!\s)\s*+(?:(?:Copyright|©|\(c\))\s*+){1,3}\(?(?:19|20)\d\d[^.!?]{0,120}(?:\.[^.!?]{0,80}){0,3}\.?\s*$", re.I
)  # from the mark and the year to the end, no more than a line or two

TAIL = 250  # characters in which these are looked for


def without_boilerplate(text: str) -> str:
    """Cut a copyright line and a note that it was truncated from an abstract's last paragraph."""
    tail = text[-TAIL:]
    if "opyright" not in tail and "TRUNCATED" not in tail and "©" not in tail and "(c)" not in tail:
        return text
    return text[:-TAIL] + COPYRIGHT.sub("", TRUNCATED.sub("", tail))
