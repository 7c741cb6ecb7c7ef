"""What can only be decided with every document's key at hand: versions, deletions, duplicates, splits.

Works on the key tables alone, as numpy arrays: about 60 bytes a document.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biolm.corpus.parts import KEYS, SOURCES, keys, part_folder

U1 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

TRAIN, VALID, SET_ASIDE = 0, 1, 2
REASONS = {
    3: "deleted by an update file",
    4: "superseded by a newer version",
    5: "same id",
    6: "same article in PMC",
    7: "same text",
}
PREFERRED = np.array([SOURCES.index(name) for name in ("pmc", "pubmed", "notes", "text")])


def resolve(work: str | Path, tasks: int, valid_fraction: float) -> list[U1]:
    """Decide about every document.

    Args:
        work: The working folder with the parts of all tasks.
        tasks: How many there are.
        valid_fraction: Share of patients or articles that is held out.

    Returns:
        For each task a code for each document: `TRAIN`, `VALID`, `SET_ASIDE` or a key of `REASONS`.
    """
    tables = [keys(work, task) for task in range(tasks)]
    table = np.concatenate([np.zeros(0, KEYS), *tables])
    starts = np.cumsum([0, *map(len, tables)])
    codes: U1 = np.zeros(len(table), np.uint8)
    codes[table["set_aside"]] = SET_ASIDE
    _mark_deleted(table, codes, work, starts)
    _mark_versions(table, codes)
    _mark_same(codes, table["id"], 5)
    _mark_articles(table, codes)
    _mark_same_text(table, codes)
    _hold_out(table, codes, valid_fraction)
    return [codes[a:b] for a, b in pairwise(starts)]


def _mark_deleted(table: npt.NDArray[Any], codes: U1, work: str | Path, starts: npt.NDArray[np.int64]) -> None:
    """A deletion takes back what stands before it in the order of files."""
    last: dict[int, int] = {}
    for task, start in enumerate(starts[:-1]):
        for row, pmid in np.load(part_folder(work, task) / "deletes.npy", allow_pickle=False):
            last[int(pmid)] = int(start + row)
    if not last:
        return
    pubmed = np.flatnonzero(table["source"] == SOURCES.index("pubmed"))
    among = pubmed[np.isin(table["pmid"][pubmed], np.fromiter(last, np.uint64, len(last)))]
    for row in among:
        if row < last[int(table["pmid"][row])] and not codes[row]:
            codes[row] = 3


def _mark_versions(table: npt.NDArray[Any], codes: U1) -> None:
    """Of a PMID's records in PubMed the highest version, then the latest revision, then the last file wins."""
    rows = np.flatnonzero((table["source"] == SOURCES.index("pubmed")) & (codes == TRAIN))
    order = rows[np.lexsort((rows, table["revised"][rows], table["version"][rows], table["pmid"][rows]))]
    older = table["pmid"][order][:-1] == table["pmid"][order][1:]
    codes[order[:-1][older]] = 4


def _mark_same(
    codes: U1, values: npt.NDArray[np.uint64], reason: int, rows: npt.NDArray[np.int64] | None = None
) -> None:
    """Of the rows still kept that share a value, all but the first (in the order of `rows`) are dropped; 0 is no value."""
    if rows is None:
        rows = np.arange(len(values))
    rows = rows[(codes[rows] == TRAIN) & (values[rows] != 0)]
    _, first = np.unique(values[rows], return_index=True)
    again = np.ones(len(rows), bool)
    again[first] = False
    codes[rows[again]] = reason


def _mark_articles(table: npt.NDArray[Any], codes: U1) -> None:
    """An article that is here in full counts once: its citation in PubMed is dropped, known by PMID, PMCID or DOI."""
    full = (table["source"] == SOURCES.index("pmc")) & (codes == TRAIN)
    cited = (table["source"] == SOURCES.index("pubmed")) & (codes == TRAIN)
    for name in ("pmid", "pmcid", "doi"):
        known = table[name][full & (table[name] != 0)]
        codes[cited & np.isin(table[name], known)] = 6


def _mark_same_text(table: npt.NDArray[Any], codes: U1) -> None:
    rank = np.argsort(PREFERRED)[table["source"]]
    _mark_same(codes, table["text"], 7, np.lexsort((np.arange(len(table)), rank)))


def _hold_out(table: npt.NDArray[Any], codes: U1, fraction: float) -> None:
    """Hold out the groups whose hash falls below the fraction; where a source has none, the one with the lowest hash.

    A source with a single group gives nothing up: it would be left without training text.
    """
    limit = np.uint64(min(int(fraction * 2**64), 2**64 - 1))
    for source in range(len(SOURCES)):
        rows = np.flatnonzero((table["source"] == source) & (codes == TRAIN))
        hashes = table["split"][rows]
        held = hashes < limit
        if fraction > 0 and len(np.unique(hashes)) > 1 and not held.any():
            held = hashes == hashes.min()
        codes[rows[held]] = VALID
