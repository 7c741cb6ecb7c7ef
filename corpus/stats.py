"""`biolm corpus stats`: what a folder of documents holds, by source, with bars."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biolm.core.cli import Verb
from biolm.core.manifest import read_manifest
from biolm.core.progress import progress
from biolm.core.summary import summary
from biolm.corpus.read import SPLITS, documents, shards

BAR = 40  # characters of the longest bar
SHOWN = 12  # sections and years shown


@dataclass(frozen=True)
class StatsConfig:
    """What a folder of documents holds.

    Args:
        docs: Folder that `biolm corpus build` wrote.
    """

    docs: str


def run(config: StatsConfig) -> None:
    """Print composition, drops, years and sections.

    Raises:
        DataError: This is no finished folder of documents.
    """
    counts = read_manifest(config.docs, "corpus build").counts
    years: dict[str, Counter[int]] = {}
    sections: dict[str, Counter[str]] = {}
    size = sum(path.stat().st_size for split in SPLITS for path in shards(config.docs, split))
    with progress("reading", size, "B") as bar:
        for split in SPLITS:
            for path in shards(config.docs, split):
                for document in documents(path):
                    meta = document["metadata"]
                    if "year" in meta:
                        years.setdefault(meta["source"], Counter())[meta["year"]] += 1
                    sections.setdefault(meta["source"], Counter()).update(
                        s[2].split(" / ")[0] for s in meta["sections"]
                    )
                bar.advance(path.stat().st_size)
    if counts["graph"]["documents"]:
        summary("citations inside the corpus", counts["graph"])
    for source, n in counts["sources"].items():
        summary(f"{source} ({Path(config.docs).name})", _rows(n))
        draw("documents a year", dict(sorted(years.get(source, Counter()).most_common(SHOWN))))
        draw("sections", dict(sections.get(source, Counter()).most_common(SHOWN)))


def _rows(n: dict[str, Any]) -> dict[str, object]:
    rows: dict[str, object] = {"records": n["records"], "kept": n["kept"]}
    rows |= {f"dropped, {reason}": count for reason, count in sorted(n["dropped"].items())}
    for split, totals in sorted(n["splits"].items()):
        rows |= {f"{split}: {name}": value for name, value in totals.items()}
    return rows


def draw(title: str, values: dict[Any, int]) -> None:
    """Print a horizontal bar for every value."""
    if not values:
        return
    print(f"{title}:")
    most = max(values.values())
    for name, value in values.items():
        print(f"  {str(name)[:40]:40} {'█' * max(1, round(value / most * BAR))} {value:,}")


VERB = Verb(config=StatsConfig, run=run, example="biolm corpus stats docs", positionals=("docs",))
