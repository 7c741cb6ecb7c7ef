"""Dates of publication and of notes, as far as they are known: `2011`, `2011-03` or `2011-03-04`."""

import re
from datetime import date as calendar_date
from functools import lru_cache

_NAMES = "jan feb mar apr may jun jul aug sep oct nov dec"
MONTHS = {name: number for number, name in enumerate(_NAMES.split(), start=1)}
_GAP = r"(?:\s|<[^<>]*>)+"
WRITTEN = re.compile(rf"((?:1[89]|20|21)\d\d)(?:{_GAP}(\w+)(?:{_GAP}(\d\d?)\b)?)?")
ISO = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?(?!\d)")


def date(year: str, month: str | None = None, day: str | None = None) -> str:
    """Join a date from its parts; a month or day that is none (`Spring`, `31` in June) is left out.

    Args:
        year: Four digits.
        month: A number or an English name of at least three letters.
        day: A number.
    """
    month = month or ""
    number = int(month) if month.isdecimal() else MONTHS.get(month[:3].lower(), 0)
    if not 1 <= number <= 12:
        return year
    try:
        return calendar_date(int(year), number, int(day or "")).isoformat()
    except (ValueError, OverflowError):
        return f"{year}-{number:02}"


@lru_cache(maxsize=1 << 14)
def written(text: str) -> str:
    """Find the first date in the NLM's manner, such as `1998 Dec 12-19` or `<Year>1998</Year><Month>12</Month>`; empty if there is none."""
    match = WRITTEN.search(text)
    return date(*match.groups()) if match else ""


def iso(text: str) -> str:
    """Return the ISO 8601 date that a text begins with; empty if it does not."""
    match = ISO.match(text.strip())
    return date(*match.groups()) if match else ""


def earliest(dates: list[str]) -> str:
    """Return the earliest date, where a day or month that is not known counts as the last; empty if there are none."""
    return min(dates, key=lambda when: when + "-99-99"[len(when) - 4 :], default="")


def between(when: str, first: str, last: str) -> bool:
    """Return whether a date may lie between two others, which count; an empty one is no limit.

    Dates are compared as far as both are known: `2011` may lie between `2011-03` and `2011-05`.
    """
    return (not first or when[: len(first)] >= first[: len(when)]) and (
        not last or when[: len(last)] <= last[: len(when)]
    )
