"""What a table's fields hold, whatever type a format gave them: texts, identifiers, flags."""

import re
from typing import Any

from biomlm.inputs.encodings import Unreadable, decoded

NULL_TEXT, NOT_TEXT = "null text", "text is no string"  # why rows are dropped
WHOLE = re.compile(r"([+-]?\d+)\.0*")  # a whole number that went through a column of floats
UNSET = frozenset(("", "false", "f", "no", "n", "none", "null", "nan", "na", "<na>"))


class NoTextError(Exception):
    """Raised for a value that is no text; the message says what it is."""


def text(value: Any) -> str | None:
    """Return a value as text; None for null.

    Raises:
        NoTextError: It is a number, a list or the like, or bytes in an unknown encoding.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        string = decoded(value)
        if isinstance(string, Unreadable):
            raise NoTextError("bytes that are neither UTF-8 nor cp1252")
        return str(string)
    if value != value:  # NaN, which stands for null in columns made by pandas  # noqa: PLR0124
        return None
    names = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}
    raise NoTextError(names.get(type(value), "of another type"))


def scalar(value: Any) -> str:
    """Return a number, a date or a text as text; empty for null.

    Raises:
        NoTextError: It holds several values, or bytes in an unknown encoding.
    """
    if isinstance(value, (list, dict)):
        raise NoTextError("a list" if isinstance(value, list) else "an object")
    if isinstance(value, (str, bytes)) or value is None or value != value:  # noqa: PLR0124
        return (text(value) or "").strip()
    return str(value)


def identifier(value: Any) -> str:
    """Return an identifier as text: `1000.0` is 1000.

    Raises:
        NoTextError: As `scalar`.
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    string = scalar(value)
    whole = WHOLE.fullmatch(string)
    return whole[1] if whole else string


def is_set(value: Any) -> bool:
    """Return whether a flag is set: not if it is empty, null, zero in any form, or a word for no.

    Raises:
        NoTextError: As `scalar`.
    """
    word = scalar(value).lower()
    try:
        return float(word) != 0 and word not in UNSET
    except ValueError:
        return word not in UNSET
