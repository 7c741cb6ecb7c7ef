"""De-identification placeholders such as `[**First Name8 (NamePattern2) 507**]`: kept, replaced by their type, or by surrogates.

The kinds are those that public code for MIMIC-III lists; what stands around the `___` of MIMIC-IV tells its kind. A surrogate
depends on the salt, the patient and the placeholder, so one person keeps one name through all notes of a patient, and another patient's
same placeholder gets another.
"""

import re

from biomlm.core.errors import ConfigError
from biomlm.corpus.text.document import hash64
from biomlm.inputs.sentences import placeholders

KINDS = (
    ("AGE", re.compile(r"\bage over\b", re.I)),
    ("HOSPITAL", re.compile(r"hospital|ward ?name|medical center", re.I)),
    ("PHONE", re.compile(r"telephone|fax|pager", re.I)),
    ("CONTACT", re.compile(r"e-mail|url|contact info", re.I)),
    ("NAME", re.compile(r"name|initial|doctor|attending|dictator|\bmd\b(?! number)", re.I)),
    ("LOCATION", re.compile(r"location|state|country|address|apartment|po box|university|college|company", re.I)),
    ("ID", re.compile(r"number|numeric|\bid\b|serial|unit|clip|job|record|identifier", re.I)),
    ("HOLIDAY", re.compile(r"holiday", re.I)),
    ("DATE", re.compile(r"date|month|year|day\b|^[\s/-]*\d[\s\d/-]*+$", re.I)),
)
BLANK = re.compile(r"(?<!_)___(?!_)")  # MIMIC-IV's; longer lines belong to forms
AROUND = 40  # characters before and behind it that are looked at
BEFORE_BLANK = (  # blanks and colons between aside
    ("NAME", re.compile(r"\b(?:name|attending|dictated by|signed by|mrs?\.?|ms\.?|drs?\.?|md|miss)$", re.I)),
    ("ID", re.compile(r"(?:\b(?:unit no|mrn|record number|number|no\.)|#)$", re.I)),
    ("PHONE", re.compile(r"\b(?:phone|telephone|tel|fax|pager|beeper|call|call at)$", re.I)),
    ("DATE", re.compile(r"\b(?:date|of birth|dob|admitted|discharged|on|since|until|dated|in|from)$", re.I)),
    ("HOSPITAL", re.compile(r"\b(?:facility|hospital|presented to|transferred to|at)$", re.I)),
    ("LOCATION", re.compile(r"\b(?:address|lives|resides|street|city)$", re.I)),
)
BEHIND_BLANK = (
    ("AGE", re.compile(r"y/?o\b|y\.o\.|year", re.I)),
    ("NAME", re.compile(r",? ?m\.?d\b", re.I)),
    ("HOSPITAL", re.compile(r"(?:hospital|medical center|clinic|nursing home)\b", re.I)),
)
SURROGATES = {
    "NAME": "Adams Baker Carter Davis Evans Foster Garcia Hughes Irwin Jones Keller Lopez Meyer Nolan Owens Price Quinn Reyes Stone Turner",
    "HOSPITAL": "Lakeside Riverview Hillcrest Northgate Fairview Westbrook",
    "LOCATION": "Milton Ashford Brookdale Clayton Easton Granville Harmony Kingston",
    "CONTACT": "mail@example.org",
    "HOLIDAY": "Thanksgiving Christmas Easter",
    "AGE": "90",
}


def kind_of_blank(text: str, start: int, end: int) -> str:
    """Return the type of a `___` from the words around it; OTHER if they do not tell."""
    behind = text[end : end + AROUND].lstrip(" \r\n\t-")
    for name, pattern in BEHIND_BLANK:
        if pattern.match(behind):
            return name
    before = text[max(0, start - AROUND) : start].rstrip(" \r\n\t:")
    return next((name for name, pattern in BEFORE_BLANK if pattern.search(before)), "OTHER")


def kind(content: str) -> str:
    """Return the type of a placeholder's content: NAME, DATE, AGE, HOSPITAL, LOCATION, PHONE, CONTACT, ID, HOLIDAY or OTHER."""
    for name, pattern in KINDS:
        if pattern.search(content):
            return name
    return "OTHER"


class Placeholders:
    """Replace placeholders in one patient's notes.

    Args:
        mode: `keep`, `type` or `surrogate`.
        key: What surrogates depend on beside the placeholder itself.

    Raises:
        ConfigError: Another mode.
    """

    def __init__(self, mode: str, key: str):
        if mode not in ("keep", "type", "surrogate"):
            raise ConfigError(f"there is no way `{mode}` to treat placeholders", remedy="Say keep, type or surrogate.")
        self.mode, self.key = mode, key

    def replace(self, text: str) -> str:
        """Return the text with its placeholders replaced."""
        if self.mode == "keep":
            return text
        parts, end = [], 0
        for start, after in placeholders(text):
            content = text[start + 3 : after - 3]
            parts += [text[end:start], self._replaced(kind(content), content)]
            end = after
        return self._without_blanks("".join((*parts, text[end:])))

    def _without_blanks(self, text: str) -> str:
        parts, end = [], 0
        for number, blank in enumerate(BLANK.finditer(text)):
            name = kind_of_blank(text, *blank.span())
            # Names and the like are one person's or place's by chance alone: a blank has no number by which it would be known again.
            parts += [text[end : blank.start()], self._replaced(name, f"{name} {number}")]
            end = blank.end()
        return "".join((*parts, text[end:]))

    def _replaced(self, name: str, content: str) -> str:
        """Return what stands for a placeholder of a kind."""
        if self.mode == "type":
            return f"[{name}]"
        number = hash64(self.key, content)
        if name == "DATE":
            written = re.search(r"\d{4}-\d", content)
            return content.strip() if written else f"{number % 12 + 1}/{number // 12 % 28 + 1}"
        if name == "PHONE":
            return f"555-{number % 10_000:04}"
        choices = SURROGATES.get(name, "").split()
        return choices[number % len(choices)] if choices else str(number % 1_000_000)
