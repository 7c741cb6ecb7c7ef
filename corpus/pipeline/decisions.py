"""What can only be decided with every document's key at hand: versions, deletions, duplicates, splits.

Works on the key tables alone, as numpy arrays: about 60 bytes a document.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from biomlm.corpus.dedup.minhash import later_ones
from biomlm.corpus.pipeline.intermediate import IDS, KEYS, TABLES, table
from biomlm.corpus.sources import SOURCES, numbers
from biomlm.corpus.text.document import RETRACTED

U1 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]

TRAIN, VALID, SET_ASIDE = 0, 1, 2
DELETED, SUPERSEDED, SAME_ID, SAME_ARTICLE, SAME_TEXT, NEAR_DUPLICATE, ONLY_REPEATS = range(3, 10)
RETRACTED_ARTICLE, FULLER_CITATION = 11, 12
REASONS = {
    DELETED: "deleted by an update file",
    SUPERSEDED: "superseded by a newer version",
    SAME_ID: "same id",
    SAME_ARTICLE: "same article in PMC",
    SAME_TEXT: "same text",
    NEAR_DUPLICATE: "near-duplicate",
    ONLY_REPEATS: "nothing but repeated paragraphs",
    RETRACTED_ARTICLE: RETRACTED,
    FULLER_CITATION: "title only, with its abstract in PubMed",
}
RANKS = np.array([source.rank for source in SOURCES])
ARTICLES = numbers(lambda source: source.articles)
CITATIONS, FULL_TEXT = numbers(lambda source: source.citations), numbers(lambda source: source.full_text)


class Decisions(NamedTuple):
    """What is decided about the documents, for each task an array over its documents.

    Args:
        codes: `TRAIN`, `VALID`, `SET_ASIDE` or a key of `REASONS`.
        renamed: Whether an earlier document with another text has the same id.
        retracted: Whether a document, itself or another, says that it is retracted.
        instead: The row, counted over all tasks, of the document that is kept in the place of a duplicate or an older version; -1 for none.
    """

    codes: list[U1]
    renamed: list[Bool]
    retracted: list[Bool]
    instead: list[Rows]


class _Fates:
    """What is decided up to now.

    Args:
        set_aside: Which documents a filter put aside.
    """

    def __init__(self, set_aside: Bool):
        self.codes: U1 = np.where(set_aside, SET_ASIDE, TRAIN).astype(np.uint8)
        self.instead: Rows = np.full(len(set_aside), -1)

    @property
    def kept(self) -> Bool:
        """Which documents are kept up to now."""
        kept: Bool = self.codes == TRAIN
        return kept

    def drop(self, rows: Rows | Bool, reason: int, instead: Rows | int = -1) -> None:
        """Drop some rows; `instead` are those that are kept in their place."""
        self.codes[rows], self.instead[rows] = reason, instead


def decide(work: str | Path, tasks: int, valid_fraction: float, keep_retracted: bool = True) -> Decisions:
    """Decide about every document.

    Args:
        work: The working folder with the parts of all tasks.
        tasks: How many there are.
        valid_fraction: Share of patients or articles that is held out.
        keep_retracted: Retracted articles are wanted.
    """
    tables = [table(work, task, "keys") for task in range(tasks)]
    keys = np.concatenate([np.zeros(0, KEYS), *tables])
    starts = np.cumsum([0, *map(len, tables)])
    fates = _Fates(keys["set_aside"])
    _mark_deleted(keys, fates, work, starts)
    _mark_versions(keys, fates)
    retracted = _retracted(keys, fates, work, starts)
    if not keep_retracted:
        fates.drop(retracted & fates.kept, RETRACTED_ARTICLE)
    title_only: Bool = np.zeros(len(keys), bool)
    for task, start in enumerate(starts[:-1]):
        title_only[start + table(work, task, "title_only").astype(np.int64)] = True
    _mark_articles(keys, fates, title_only)
    renamed = _mark_ids(keys, fates)
    preferred = np.lexsort((np.arange(len(keys)), RANKS[keys["source"]]))
    _mark_same(keys["text"], fates, preferred)
    bands = [of_task for task in range(tasks) if len(of_task := table(work, task, "bands"))]
    if bands:
        later, first = later_ones(np.concatenate(bands), preferred[fates.kept[preferred]])
        fates.drop(later, NEAR_DUPLICATE, first)
    _hold_out(keys, fates.codes, valid_fraction)
    parts = list(pairwise(starts))
    return Decisions(
        [fates.codes[a:b] for a, b in parts],
        [renamed[a:b] for a, b in parts],
        [retracted[a:b] for a, b in parts],
        [fates.instead[a:b] for a, b in parts],
    )


def _mark_deleted(keys: npt.NDArray[Any], fates: _Fates, work: str | Path, starts: Rows) -> None:
    """Mark the records that a later deletion, in the order of files, takes back."""
    last: dict[int, int] = {}
    for task, start in enumerate(starts[:-1]):
        for row, pmid in table(work, task, "deletes"):
            last[int(pmid)] = int(start + row)
    if not last:
        return
    versioned = np.flatnonzero(np.isin(keys["source"], CITATIONS))
    among = versioned[np.isin(keys["pmid"][versioned], np.fromiter(last, np.uint64, len(last)))]
    for row in among:
        if row < last[int(keys["pmid"][row])]:
            fates.drop(row, DELETED)


def _mark_versions(keys: npt.NDArray[Any], fates: _Fates) -> None:
    """Keep of an article's records in a source the highest version, then the latest date, then the last file, wanted or not."""
    alive = fates.kept | (fates.codes == SET_ASIDE)
    for source in ARTICLES:
        rows = np.flatnonzero((keys["source"] == source) & alive & ((keys["pmid"] > 0) | (keys["pmcid"] > 0)))
        order = rows[np.lexsort((rows, keys["revised"][rows], keys["version"][rows], keys["id"][rows]))]
        ids = keys["id"][order]
        last = np.searchsorted(ids, ids, side="right") - 1
        older = last != np.arange(len(order))
        fates.drop(order[older], SUPERSEDED, order[last[older]])


def _mark_same(values: npt.NDArray[np.uint64], fates: _Fates, order: Rows) -> None:
    """Drop, of the rows still kept that share a value, all but the first in an order; 0 is no value."""
    rows = order[fates.kept[order] & (values[order] != 0)]
    _, first, which = np.unique(values[rows], return_index=True, return_inverse=True)
    again = first[which] != np.arange(len(rows))
    fates.drop(rows[again], SAME_TEXT, rows[first[which]][again])


def _mark_ids(keys: npt.NDArray[Any], fates: _Fates) -> Bool:
    """Drop, of the documents still kept that share an id, all with the text of the first.

    Returns:
        Documents that have another one's id without being the same, [documents]; they get ids of their own.
    """
    rows = np.flatnonzero(fates.kept)
    _, first, which = np.unique(keys["id"][rows], return_index=True, return_inverse=True)
    earliest = rows[first[which]]
    same = keys["text"][rows] == keys["text"][earliest]
    again = same & (rows != earliest)
    fates.drop(rows[again], SAME_ID, earliest[again])
    renamed: Bool = np.zeros(len(keys), bool)
    renamed[rows[~same]] = True
    return renamed


def _retracted(keys: npt.NDArray[Any], fates: _Fates, work: str | Path, starts: Rows) -> Bool:
    """Return which documents are retracted, as they say themselves or others say of them: a notice, the citation in PubMed."""
    tables = [table(work, task, "retracted") for task in range(len(starts) - 1)]
    statements = np.concatenate([np.zeros(0, TABLES["retracted"]), *tables])
    rows = np.repeat(starts[:-1], [len(of_task) for of_task in tables]) + statements["row"]
    statements = statements[(fates.kept | (fates.codes == SET_ASIDE))[rows]]
    retracted: Bool = np.zeros(len(keys), bool)
    for name in IDS:
        retracted |= np.isin(keys[name], statements[name][statements[name] != 0])
    return retracted


def _mark_articles(keys: npt.NDArray[Any], fates: _Fates, title_only: Bool) -> None:
    """Keep one of an article in PMC and its citation in PubMed, known by PMID, PMCID or DOI.

    That is the article, but for one of which nothing but the title is there, where the citation has more.
    """
    in_full, cited = np.isin(keys["source"], FULL_TEXT), np.isin(keys["source"], CITATIONS)
    for bare, fuller, reason in (
        (in_full & title_only, cited & ~title_only, FULLER_CITATION),
        (cited, in_full, SAME_ARTICLE),
    ):
        for name in IDS:
            given = keys[name] != 0
            there, rows = np.flatnonzero(fuller & fates.kept & given), np.flatnonzero(bare & fates.kept & given)
            values, first = np.unique(keys[name][there], return_index=True)
            again = np.isin(keys[name][rows], values)
            same = first[np.searchsorted(values, keys[name][rows[again]])]
            fates.drop(rows[again], reason, there[same])


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
