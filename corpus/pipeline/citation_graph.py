"""The citation graph inside the corpus: links by the ids that documents have here, edges, in-degrees, isolated documents.

A reference names an article by PMID, PMCID or DOI, whichever its publisher gave; the document may stand in the corpus under another of
these. All three are looked up, so that `links` holds ids of documents wherever the cited article is here.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomlm.core.files import atomic_file
from biomlm.corpus.pipeline.decisions import FULL_TEXT, SAME_ARTICLE, VALID
from biomlm.corpus.text.document import hash64
from biomlm.inputs.streams import compressed

NAME = "aliases.npy"
ALIASES = np.dtype([("alias", "u8"), ("pmcid", "?"), ("number", "u8")])
EDGES, DEGREES = "graph/edges.tsv.gz", "graph/degrees.tsv.gz"
LEVEL = 6  # gzip's level


def write_aliases(work: str | Path, keys: npt.NDArray[Any], codes: npt.NDArray[np.uint8]) -> None:
    """Save a sorted table from every name of a kept article to the id of its document.

    Args:
        work: The working folder.
        keys: The key table of all documents.
        codes: What was decided about each.
    """
    kept = keys[(codes <= VALID) & ((keys["pmid"] > 0) | (keys["pmcid"] > 0))]
    by_pmcid = np.isin(kept["source"], FULL_TEXT) & (kept["pmcid"] > 0)
    number = np.where(by_pmcid, kept["pmcid"], kept["pmid"])
    rows = []
    for name in ("pmid", "pmcid", "doi"):
        has = (kept[name] > 0) & (number > 0)
        aliases = (
            kept[name][has] if name == "doi" else np.array([article_hash(name, n) for n in kept[name][has]], np.uint64)
        )
        part = np.zeros(len(aliases), ALIASES)
        part["alias"], part["pmcid"], part["number"] = aliases, by_pmcid[has], number[has]
        rows.append(part)
    table = _sorted(np.concatenate(rows))
    with atomic_file(Path(work) / NAME) as tmp, tmp.open("wb") as file:
        np.save(file, _sorted(np.concatenate([table, _of_citations(table, keys[codes == SAME_ARTICLE])])))


def _of_citations(table: npt.NDArray[Any], citations: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return rows for PMIDs of articles whose own file names none, from the citations that were dropped in their favour."""
    rows = []
    for row in citations:
        aliases = np.array([article_hash("pmcid", row["pmcid"]), row["doi"]], np.uint64)
        for alias in aliases[[row["pmcid"] > 0, row["doi"] > 0]]:
            at = np.searchsorted(table["alias"], alias)
            if at < len(table) and table["alias"][at] == alias:
                rows.append((article_hash("pmid", row["pmid"]), table["pmcid"][at], table["number"][at]))
                break
    return np.array(rows, ALIASES)


def _sorted(table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    ordered: npt.NDArray[Any] = table[np.argsort(table["alias"], kind="stable")]
    return ordered


def article_hash(kind: str, number: int) -> int:
    """Return the hash under which an article is looked up by PMID or PMCID."""
    return hash64(f"pmid:{number}" if kind == "pmid" else f"pmcid:PMC{number}")


class Aliases:
    """Look up cited articles.

    Args:
        work: The working folder with the table of `write_aliases`, which is mapped, not read.
    """

    def __init__(self, work: str | Path):
        self.table = np.load(Path(work) / NAME, mmap_mode="r", allow_pickle=False)
        self.aliases = self.table["alias"]

    def resolved(self, links: list[str], own: str) -> tuple[list[str], list[str]]:
        """Replace links by the ids of documents in the corpus, each once; return all links and those that are in it.

        Args:
            links: `pmid:…`, `pmcid:…` or `doi:…`.
            own: The citing document's id, which is no link.
        """
        if not links or not len(self.aliases):
            return links, []
        hashes = np.array([hash64(link.removeprefix("doi:")) for link in links], np.uint64)
        at = np.minimum(np.searchsorted(self.aliases, hashes), len(self.aliases) - 1)
        is_inside: dict[str, bool] = {}
        for link, inside, row in zip(links, self.aliases[at] == hashes, self.table[at], strict=True):
            id = link if not inside else f"pmcid:PMC{row['number']}" if row["pmcid"] else f"pmid:{row['number']}"
            if id != own:
                is_inside[id] = bool(inside)
        return list(is_inside), [id for id, inside in is_inside.items() if inside]


def write_graph(out: Path, edges: Iterator[tuple[str, list[str]]]) -> dict[str, int]:
    """Write `graph/edges.tsv.gz` (citing, cited) and `graph/degrees.tsv.gz` (id, cited by, cites); return the counts.

    Args:
        out: The output folder.
        edges: Every article and the articles here that it cites, in the order of the shards.
    """
    cites: dict[str, int] = {}
    cited: Counter[str] = Counter()
    with atomic_file(out / EDGES) as tmp, compressed(tmp, LEVEL) as file:
        for id, targets in edges:
            cites[id] = len(targets)
            cited.update(targets)
            file.writelines(f"{id}\t{target}\n".encode() for target in targets)
    with atomic_file(out / DEGREES) as tmp, compressed(tmp, LEVEL) as file:
        file.writelines(f"{id}\t{cited[id]}\t{n}\n".encode() for id, n in cites.items())
    return {
        "documents": len(cites),
        "edges": sum(cites.values()),
        "cited": len(cited),
        "isolated": sum(not n and not cited[id] for id, n in cites.items()),
        "most cited by": max(cited.values(), default=0),
    }
