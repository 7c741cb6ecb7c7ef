"""The text of a clinical note: hard-wrapped lines joined, sections found by their headers.

Header rules after what MIMIC's discharge summaries and visit notes do: a line that is a known header, a line in capitals that is any known
title (`corpus.text.section_titles`; other capitals may be a name), or a short line in capitals or title case that ends in a colon.
`[** … **]` placeholders are kept as they are.
"""

import re
from collections.abc import Iterator

from biomlm.corpus.text.section_titles import NOTE_TITLES

WRAP = 55  # a line at least this long, without an end mark, goes on in the next one

HEADERS = frozenset(
    """
    chief complaint|history of present illness|hpi|past medical history|past surgical history|family history|social history|
    review of systems|physical exam|physical examination|physical exam on admission|physical exam on discharge|pertinent results|
    results|assessment|plan|assessment and plan|impression|recommendations|allergies|medications|current medications|
    medications on admission|discharge medications|hospital course|brief hospital course|discharge diagnosis|discharge diagnoses|
    discharge disposition|discharge condition|discharge instructions|followup instructions|follow-up|major surgical or invasive procedure|
    procedure|procedures|indication|technique|comparison|findings|vital signs|vitals|vitals reviewed|laboratory data|labs|imaging|
    reason for this examination|medical condition|final report|wet read|conclusions|service|attending|instructions|subjective|objective|
    medical history|surgical history|history|immunizations|exam|diagnosis|reason for visit|interpretation|addendum|facility
    """.replace("\n", "")
    .replace("    ", "")
    .split("|")
)
TITLED = re.compile(r"^([A-Z][A-Za-z0-9 ,/&()'’-]{1,58}):(?:\s+(?=\S)|\s*$)")
HYPHENATED = re.compile(r"[a-z]{2}-$")  # a word broken at the end of a line
LIST_ITEM = re.compile(r"^\s*(?:[-*•#+]|\d{1,2}[.)])\s+")


def header(line: str) -> tuple[str, str] | None:
    """Split a line into its header and what follows on it; None if it is none."""
    bare = line.strip()
    if not bare or len(bare) > 400:
        return None
    name, colon, rest = bare.partition(":")
    if name.strip().lower() in HEADERS and (colon or not rest):
        return name.strip(), rest.strip()
    if bare.isupper() and bare.lower() in NOTE_TITLES:
        return bare, ""
    match = TITLED.match(bare)
    if match and not rest.strip() and len(match[1].split()) <= 6:
        return match[1], ""
    if match and match[1].isupper():
        return match[1], bare[match.end() :]
    return None


def note_sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the sections of a note, in order: `(header, blocks)`; what stands before the first header is under `Note`."""
    name, lines = "Note", list[str]()
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        headed = header(line)
        if headed is None:
            lines.append(line)
            continue
        yield name, joined(lines)
        name, rest = headed
        lines = [f"{name}: {rest}" if rest else line, *([] if rest else [""])]
    yield name, joined(lines)


def joined(lines: list[str]) -> list[str]:
    """Join hard-wrapped lines into paragraphs: a long line goes on in the next one unless that is blank or a list item.

    A word that was broken at a line's end is made whole: `treat-` and `ment` give `treatment`.
    """
    blocks: list[str] = []
    open_block = False
    for line in lines:
        bare = line.strip()
        if not bare:
            open_block = False
            continue
        if open_block and not LIST_ITEM.match(line):
            blocks[-1] = (
                f"{blocks[-1][:-1]}{bare}"
                if HYPHENATED.search(blocks[-1]) and bare[0].islower()
                else f"{blocks[-1]} {bare}"
            )
        else:
            blocks.append(bare)
        open_block = len(bare) >= WRAP or bare.count("[**") > bare.count("**]") or bool(HYPHENATED.search(bare))
    return blocks
