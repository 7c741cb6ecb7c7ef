"""The card of a folder of documents: what is in it, where from, under which licences, and what was done.

`README.md` has the head that the Hugging Face Hub reads (github.com/huggingface/hub-docs, datasetcard.md); `card.html` is the same page
for people, as one file. Both are made from the manifest and hold no text, no time and no folder of this machine, so that the same build
gives the same bytes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomlm.core.files import write_text
from biomlm.core.html.page import Markup, document, join, table, tag
from biomlm.core.html.svg import bar_chart
from biomlm.core.manifest import Manifest
from biomlm.corpus.sources import BY_NAME

MARKDOWN, PAGE = "README.md", "card.html"
SHOWN = 15  # rows of a table of values; the rest is one row
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
LANGUAGES = {
    "eng": "en",
    "fre": "fr",
    "ger": "de",
    "spa": "es",
    "ita": "it",
    "por": "pt",
    "rus": "ru",
    "chi": "zh",
    "jpn": "ja",
}
UNKNOWN = "not said"
RETAINED = ("out", "salt", "salt_file", "workers", "override", "where")  # settings that are no part of what was done


@dataclass(frozen=True)
class Table:
    """A table of the card.

    Args:
        title: Its title.
        heads: Its columns.
        rows: Its cells; numbers are grouped by thousands.
        words: How many columns, from the left, hold words.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str | int]]
    words: int = 1


Facts = dict[
    str, dict[str, Counter[str]]
]  # source → `years`, `licences` or `languages` → value ("" for none) → documents


def write(out: Path, record: Manifest, counts: dict[str, Any], facts: Facts) -> None:
    """Write both cards.

    Args:
        out: The folder of documents.
        record: Its manifest, for the configuration and the inputs.
        counts: Of the build.
        facts: What its documents' metadata say.
    """
    tables = [*_of_sources(counts["sources"]), *_of_facts(facts), _settings(record), _inputs(record)]
    shown = [each for each in tables if each.rows]
    write_text(out / MARKDOWN, _markdown(out.name, counts, facts, shown))
    write_text(out / PAGE, _page(out.name, counts, shown))


def headline(counts: dict[str, Any]) -> str:
    """Say in a sentence what is there."""
    totals: Counter[str] = Counter()
    for of_source in counts["sources"].values():
        for split in of_source["splits"].values():
            totals.update({name: split[name] for name in ("documents", "words")})
    dropped = sum(sum(of_source["dropped"].values()) for of_source in counts["sources"].values())
    names = ", ".join(counts["sources"])
    return f"{totals['documents']:,} documents of {totals['words']:,} words from {names}; {dropped:,} records were dropped."


def _of_sources(sources: dict[str, Any]) -> list[Table]:
    splits = [
        [name, split, *(int(totals[column]) for column in ("documents", "words", "sentences", "links"))]
        for name, of_source in sources.items()
        for split, totals in sorted(of_source["splits"].items())
    ]
    drops = [
        [name, reason, n]
        for name, of_source in sources.items()
        for reason, n in sorted(of_source["dropped"].items(), key=lambda drop: (-drop[1], drop[0]))
    ]
    records = [[name, s["records"], s["kept"], sum(s["dropped"].values())] for name, s in sources.items()]
    return [
        Table("Records", ("source", "records", "kept", "dropped"), records),
        Table("Documents", ("source", "split", "documents", "words", "sentences", "links"), splits, 2),
        Table("Dropped", ("source", "why", "records"), drops, 2),
    ]


def _of_facts(facts: Facts) -> list[Table]:
    titles = {"licences": "Licences", "languages": "Languages, as the records say them", "years": "Years"}
    return [
        Table(title, ("source", title.split(",")[0].lower(), "documents"), _rows(facts, fact), 2)
        for fact, title in titles.items()
    ]


def _rows(facts: Facts, fact: str) -> list[list[str | int]]:
    """List the values of a fact, the commonest first (years in order); nothing for a source of which none says it."""
    rows: list[list[str | int]] = []
    for name, of_source in facts.items():
        values = dict(of_source[fact])
        missing = values.pop("", 0)
        if not values:
            continue
        ordered = sorted(_decades(values).items()) if fact == "years" else Counter(values).most_common()
        rows += [[name, value, n] for value, n in ordered[:SHOWN]]
        if others := [n for _, n in ordered[SHOWN:]]:
            rows.append([name, f"{len(others)} others", sum(others)])
        if missing:
            rows.append([name, UNKNOWN, missing])
    return rows


def _decades(years: dict[str, int]) -> dict[str, int]:
    if len(years) <= SHOWN:
        return years
    decades: Counter[str] = Counter()
    for year, n in years.items():
        decades[f"{year[:3]}0s" if year.isdecimal() else year] += n
    return decades


def _settings(record: Manifest) -> Table:
    """List the settings that decide what is in the folder."""
    sources = [*BY_NAME, *RETAINED]
    rows = []
    for name, value in sorted(record.config.items()):  # as they stand in a manifest that is read again
        nested = sorted(value.items()) if isinstance(value, dict) and name == "select" else [("", value)]
        for key, setting in nested:
            if name not in sources and setting not in ("", [], {}, 0, False):
                shown = [Path(s).name for s in setting] if key == "decontaminate" else setting
                rows.append([f"{name}.{key}".strip("."), str(shown)])
    return Table("What was done", ("option of `corpus build`", "value"), rows, 2)


def _inputs(record: Manifest) -> Table:
    rows = []
    for name, sha256 in sorted(record.inputs.items()):
        source, _, path = name.partition(": ")
        rows.append([source, Path(path).name, sha256[:16]])
    return Table("Files", ("source", "file", "SHA-256, its beginning"), rows, 3)


def _private(counts: dict[str, Any]) -> str:
    notes = [name for name in counts["sources"] if BY_NAME[name].patients]
    if not notes:
        return ""
    return (
        f"This folder holds text about patients ({', '.join(notes)}). It is protected health information, as are vocabularies and models "
        "made from it, unless your institution says otherwise."
    )


def _markdown(name: str, counts: dict[str, Any], facts: Facts, tables: Sequence[Table]) -> str:
    languages, licences = Counter[str](), Counter[str]()
    for of_source in facts.values():
        languages.update(of_source["languages"])
        licences.update(of_source["licences"])
    documents = sum(of_source["kept"] for of_source in counts["sources"].values())
    codes = sorted({LANGUAGES[code] for code in languages if code in LANGUAGES})
    head = [
        "---",
        f"pretty_name: {_quoted(name)}",
        *(["language:", *(f"- {code}" for code in codes)] if codes else []),
        f"license: {next(iter(licences)) if len(licences) == 1 and '' not in licences else 'other'}",
        "task_categories:",
        "- fill-mask",
        f"size_categories: {_size(documents)}",
        "---",
    ]
    parts = ["\n".join(head), f"# {_cell(name)}", headline(counts), _private(counts)]
    for each in tables:
        line = ["---"] * each.words + ["---:"] * (len(each.heads) - each.words)
        rows = [each.heads, line, *([_cell(f"{c:,}" if isinstance(c, int) else c) for c in row] for row in each.rows)]
        parts += [f"## {each.title}", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _size(documents: int) -> str:
    low = max((size for size in SIZES if size <= documents), default=0)
    high = next((size for size in SIZES if size > documents), 0)
    short = {size: f"{size // 1000}K" if size < 1_000_000 else f"{size // 1_000_000}M" for size in SIZES} | {
        1_000_000_000: "1B"
    }
    return f"n<{short[high]}" if not low else f"n>{short[low]}" if not high else f"{short[low]}<n<{short[high]}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _cell(text: str) -> str:
    """Escape what Markdown or HTML would take as markup in a name."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    for letter in "\\|<>[]*_`":
        shown = shown.replace(letter, f"\\{letter}")
    return shown


def _page(name: str, counts: dict[str, Any], tables: Sequence[Table]) -> str:
    words = [(source, float(sum(t["words"] for t in n["splits"].values()))) for source, n in counts["sources"].items()]
    body: list[Markup] = [tag("h1", name), tag("p", headline(counts)), bar_chart("words by source", words)]
    if private := _private(counts):
        body.append(tag("p", private))
    for each in tables:
        cells = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in each.rows]
        body += [
            tag("h2", each.title.replace("`", "")),
            table([h.replace("`", "") for h in each.heads], cells, text=each.words),
        ]
    return document(name, tag("main", join(*body)))
