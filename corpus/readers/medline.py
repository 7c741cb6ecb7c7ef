"""MEDLINE text exports (`PMID- 123`, `TI  - …`): PubMed's display format for saving and for reference managers.

Format: https://www.nlm.nih.gov/bsd/mms/medlineelements.html. A record is a run of tagged lines; six blanks start a continuation.
"""

import re
from collections.abc import Iterator
from typing import IO, Any

from biomlm.corpus.text.dates import written
from biomlm.inputs.delimited import ENCODING
from biomlm.inputs.encodings import CP1252, Foreign, Problem, Unreadable, text_lines

TAG = re.compile(r"^([A-Z]{2,4}) *- ?(.*)$")
RELATED = {
    "RIN": "RetractionIn",
    "ROF": "RetractionOf",
    "CON": "CommentOn",
    "EFR": "ErratumFor",
    "UOF": "UpdateOf",
    "ORI": "OriginalReportIn",
}
CITED = re.compile(r"PMID: *([0-9]+)")

Tags = dict[str, list[str]]


def records(stream: IO[bytes]) -> Iterator[tuple[int, Tags | str]]:
    """Cut an export into records.

    Yields:
        `(line, tags)`: the line a record starts on and its values by tag, or what is wrong there.
    """
    tags: Tags = {}
    last, first, lost = "", 1, False
    for number, raw in enumerate(text_lines(stream), start=1):
        if isinstance(raw, Problem):
            if tags:
                yield first, tags
            yield number, str(raw)
            return
        line, readable, foreign = raw.rstrip("\r\n"), not isinstance(raw, Unreadable), isinstance(raw, Foreign)
        match = TAG.match(line) if readable else None
        if match and match[1] == "PMID":
            if tags:
                yield first, tags
            tags, first, lost = {}, number, False
        if match and not lost:
            last = match[1]
            tags.setdefault(last, []).append(match[2])
        elif readable and line.startswith("      ") and last in tags and not lost:
            tags[last][-1] += " " + line.strip()
        elif line.strip() and not lost:
            lost = True  # until the next PMID
            yield number, "a line without a tag" if readable else ENCODING
            tags = {}
        if foreign and tags:
            tags[CP1252] = []
    if tags:
        yield first, tags


def facts(tags: Tags) -> dict[str, Any] | None:
    """Collect what a document is made of (see `pubmed.facts`); return None if there is no PMID."""
    pmid = tags.get("PMID", [""])[0].strip()
    if not pmid.isdecimal():
        return None
    revised = tags.get("LR", ["0"])[0].strip()
    record_facts: dict[str, Any] = {
        "pmid": pmid,
        "version": [1, int(revised) if revised.isdecimal() else 0],
        "cited": [],
        "sections": [],
    }
    for tag, path in (
        ("TI", "Title"),
        ("BTI", "Title"),
        ("TT", "Vernacular title"),
        ("AB", "Abstract"),
        ("OAB", "Other abstract"),
    ):
        record_facts["sections"] += [(path, [text]) for text in tags.get(tag, ())]
    if journal := tags.get("JT"):
        record_facts["journal"] = journal[0]
    if published := written(tags.get("DP", [""])[0]):
        record_facts["date"], record_facts["year"] = published, int(published[:4])
    for name, tag in (("languages", "LA"), ("publication_types", "PT"), ("mesh", "MH")):
        if tag in tags:
            record_facts[name] = [value.lstrip("*").split("/")[0] for value in tags[tag]]
    if "PMC" in tags:
        record_facts["pmcid"] = tags["PMC"][0].strip()
    for value in tags.get("AID", []) + tags.get("LID", []):
        if value.endswith("[doi]"):
            record_facts.setdefault("doi", value.removesuffix("[doi]").strip())
    if CP1252 in tags:
        record_facts["encoding"] = CP1252
    record_facts["related"] = [
        (kind, cited[1])
        for tag, kind in RELATED.items()
        for value in tags.get(tag, ())
        if (cited := CITED.search(value))
    ]
    return record_facts
