"""What can only be decided with every document's key at hand: versions, deletions, duplicates, splits.

Works on the key tables alone, as numpy arrays: about 60 bytes a document.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomlm.corpus.dedup.minhash import later_ones
from biomlm.corpus.pipeline.intermediate import KEYS, table
from biomlm.corpus.sources import SOURCES, numbers
from biomlm.corpus.text.document import RETRACTED

U1 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

TRAIN, VALID, SET_ASIDE = 0, 1, 2
SAME_ARTICLE, ONLY_REPEATS, OTHER_TEXT, RETRACTED_ARTICLE = 6, 9, 10, 11
REASONS = {
    3: "deleted by an update file",
    4: "superseded by a newer version",
    5: "same id",
    SAME_ARTICLE: "same article in PMC",
    7: "same text",
    8: "near-duplicate",
    ONLY_REPEATS: "nothing but repeated paragraphs",
    OTHER_TEXT: "another text of the same article",
    RETRACTED_ARTICLE: RETRACTED,
}
RANKS = np.array([source.rank for source in SOURCES])
VERSIONED, FULL_TEXT = numbers(lambda source: source.versions), numbers(lambda source: source.full_text)


def resolve(work: str | Path, tasks: int, valid_fraction: float) -> tuple[list[U1], list[Bool]]:
    """Decide about every document.

    Args:
        work: The working folder with the parts of all tasks.
        tasks: How many there are.
        valid_fraction: Share of patients or articles that is held out.

    Returns:
        For each task a code for each document: `TRAIN`, `VALID`, `SET_ASIDE` or a key of `REASONS`; and which documents have an id that an
        earlier one with another text has, too.
    """
    tables = [table(work, task, "keys") for task in range(tasks)]
    keys = np.concatenate([np.zeros(0, KEYS), *tables])
    starts = np.cumsum([0, *map(len, tables)])
    codes: U1 = np.zeros(len(keys), np.uint8)
    codes[keys["set_aside"]] = SET_ASIDE
    _mark_deleted(keys, codes, work, starts)
    _mark_versions(keys, codes)
    retracted: Bool = np.zeros(len(keys), bool)
    for task, start in enumerate(starts[:-1]):
        retracted[start + table(work, task, "retracted").astype(np.int64)] = True
    _mark_articles(keys, codes, retracted)
    renamed = _mark_ids(keys, codes)
    preferred = np.lexsort((np.arange(len(keys)), RANKS[keys["source"]]))
    _mark_same(codes, keys["text"], 7, preferred)
    bands = [of_task for task in range(tasks) if len(of_task := table(work, task, "bands"))]
    if bands:
        order = preferred[codes[preferred] == TRAIN]
        codes[later_ones(np.concatenate(bands), order)] = 8
    _hold_out(keys, codes, valid_fraction)
    return [codes[a:b] for a, b in pairwise(starts)], [renamed[a:b] for a, b in pairwise(starts)]


def _mark_deleted(keys: npt.NDArray[Any], codes: U1, work: str | Path, starts: npt.NDArray[np.int64]) -> None:
    """Mark the records that a later deletion, in the order of files, takes back."""
    last: dict[int, int] = {}
    for task, start in enumerate(starts[:-1]):
        for row, pmid in table(work, task, "deletes"):
            last[int(pmid)] = int(start + row)
    if not last:
        return
    versioned = np.flatnonzero(np.isin(keys["source"], VERSIONED))
    among = versioned[np.isin(keys["pmid"][versioned], np.fromiter(last, np.uint64, len(last)))]
    for row in among:
        if row < last[int(keys["pmid"][row])]:
            codes[row] = 3


def _mark_versions(keys: npt.NDArray[Any], codes: U1) -> None:
    """Keep of a PMID's records in PubMed the highest version, then the latest revision, then the last file, wanted or not."""
    alive = (codes == TRAIN) | (codes == SET_ASIDE)
    rows = np.flatnonzero(np.isin(keys["source"], VERSIONED) & alive & (keys["pmid"] > 0))
    order = rows[np.lexsort((rows, keys["revised"][rows], keys["version"][rows], keys["pmid"][rows]))]
    older = keys["pmid"][order][:-1] == keys["pmid"][order][1:]
    codes[order[:-1][older]] = 4


def _mark_same(
    codes: U1, values: npt.NDArray[np.uint64], reason: int, rows: npt.NDArray[np.int64] | None = None
) -> None:
    """Drop, of the rows still kept that share a value, all but the first (in the order of `rows`); 0 is no value."""
    if rows is None:
        rows = np.arange(len(values))
    rows = rows[(codes[rows] == TRAIN) & (values[rows] != 0)]
    _, first = np.unique(values[rows], return_index=True)
    again = np.ones(len(rows), bool)
    again[first] = False
    codes[rows[again]] = reason


def _mark_ids(keys: npt.NDArray[Any], codes: U1) -> Bool:
    """Drop, of the documents still kept that share an id, all with the text of the first, and an article's other texts.

    Returns:
        Documents that have another one's id without being the same, [documents]; they get ids of their own.
    """
    rows = np.flatnonzero(codes == TRAIN)
    _, first, which = np.unique(keys["id"][rows], return_index=True, return_inverse=True)
    earliest = rows[first[which]]
    same = keys["text"][rows] == keys["text"][earliest]
    codes[rows[same & (rows != earliest)]] = 5
    article = np.isin(keys["source"], FULL_TEXT) & ((keys["pmid"] > 0) | (keys["pmcid"] > 0))
    other = rows[~same]
    codes[other[article[other]]] = OTHER_TEXT
    renamed: Bool = np.zeros(len(keys), bool)
    renamed[other[~article[other]]] = True
    return renamed


def _mark_articles(keys: npt.NDArray[Any], codes: U1, retracted: Bool) -> None:
    """Drop the citation in PubMed, known by PMID, PMCID or DOI, of an article that the corpus has in full.

    Where the citation is put aside as retracted, so is the article, whose own file does not know.
    """
    full = np.isin(keys["source"], FULL_TEXT) & (codes == TRAIN)
    cited = np.isin(keys["source"], VERSIONED) & (codes == TRAIN)
    for name in ("pmid", "pmcid", "doi"):
        in_full = keys[name][full & (keys[name] != 0)]
        gone = keys[name][(codes == SET_ASIDE) & retracted & (keys[name] != 0)]
        codes[full & np.isin(keys[name], gone)] = RETRACTED_ARTICLE
        codes[cited & np.isin(keys[name], in_full)] = SAME_ARTICLE


def _hold_out(keys: npt.NDArray[Any], codes: U1, fraction: float) -> None:
    """Hold out the groups whose hash falls below the fraction; where a source has none, the one with the lowest hash.

    A source with a single group gives nothing up: it would be left without training text.
    """
    limit = np.uint64(min(int(fraction * 2**64), 2**64 - 1))
    for source in range(len(SOURCES)):
        rows = np.flatnonzero((keys["source"] == source) & (codes == TRAIN))
        hashes = keys["split"][rows]
        held = hashes < limit
        if fraction > 0 and len(np.unique(hashes)) > 1 and not held.any():
            held = hashes == hashes.min()
        codes[rows[held]] = VALID
