"""`biomlm corpus stats`: what a folder of documents holds, by source, with bars."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biomlm.core.errors import printable
from biomlm.core.manifest import counts_as_written, read_manifest
from biomlm.core.progress import progress
from biomlm.core.summary import summary
from biomlm.corpus.config import StatsConfig
from biomlm.corpus.documents import SPLITS, document_files, documents
from biomlm.corpus.pipeline.write import REPEATED, TOTALS
from biomlm.corpus.sources import names
from biomlm.corpus.text.section_titles import UNKNOWN, listed_title

BAR = 40  # characters of the longest bar
SHOWN = 12  # sections shown
YEARS = 24  # years shown one by one; more are shown by decades


def run(config: StatsConfig) -> None:
    """Print and draw composition, drops, duplicates, years, sections with known titles and links.

    Raises:
        DataError: This is no finished folder of documents.
    """
    counts = read_manifest(config.docs, "corpus build").counts
    years: dict[str, Counter[int]] = {}
    sections: dict[str, Counter[str]] = {}
    size = sum(path.stat().st_size for split in SPLITS for path in document_files(config.docs, split))
    with progress("reading", size, "B") as bar:
        for split in SPLITS:
            for path in document_files(config.docs, split):
                for document in documents(path):
                    meta = document["metadata"]
                    if isinstance(meta.get("year"), int):  # a table's may be anything
                        years.setdefault(meta["source"], Counter())[meta["year"]] += 1
                    sections.setdefault(meta["source"], Counter()).update(
                        listed_title(s[2].split(" / ")[0]) for s in meta["sections"]
                    )
                bar.advance(path.stat().st_size)
    with counts_as_written(config.docs, "corpus build"):
        _show(Path(config.docs).name, counts, years, sections)


def _show(
    name: str, counts: Mapping[str, Any], years: dict[str, Counter[int]], sections: dict[str, Counter[str]]
) -> None:
    if counts["graph"]["documents"]:
        summary("citations inside the corpus", counts["graph"])
    sources = counts["sources"]
    draw("words by source", {source: sum(t["words"] for t in n["splits"].values()) for source, n in sources.items()})
    for source, n in sources.items():
        repeated = (
            {count.replace("_", " "): counts[count] for count in REPEATED}
            if source in names(lambda s: s.patients)
            else {}
        )
        summary(f"{source} ({name})", _rows(n) | repeated)
        draw("records", {"kept": n["kept"]} | {f"dropped, {reason}": count for reason, count in n["dropped"].items()})
        draw("documents by year", by_year(years.get(source, Counter())))
        of_source = sections.get(source, Counter())
        others = of_source.pop(UNKNOWN, 0)
        draw("sections", dict(of_source.most_common(SHOWN)) | ({UNKNOWN: others} if others else {}))


def _rows(n: dict[str, Any]) -> dict[str, object]:
    rows: dict[str, object] = {"records": n["records"], "kept": n["kept"]}
    rows |= {f"dropped, {reason}": count for reason, count in sorted(n["dropped"].items())}
    for split, totals in sorted(n["splits"].items()):
        rows |= {f"{split}: {name}": totals[name] for name in TOTALS}
    return rows


def by_year(years: Counter[int]) -> dict[str, int]:
    """Group the documents by year, or by decade where there are many years."""
    if len(years) <= YEARS:
        return {str(year): years[year] for year in sorted(years)}
    decades: Counter[int] = Counter()
    for year, number in years.items():
        decades[year // 10 * 10] += number
    return {f"{decade}s": decades[decade] for decade in sorted(decades)}


def draw(title: str, values: dict[Any, int]) -> None:
    """Print a horizontal bar for every value."""
    if not values:
        return
    print(f"{printable(title)}:")
    most = max(values.values())
    for name, value in values.items():
        print(f"  {printable(str(name)[:40]):40} {'█' * max(1, round(value / most * BAR))} {value:,}")
