"""`corpus show`: documents by their ids or a sample of them, and for an id that was dropped, why."""

import heapq
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from biomlm.core.errors import DataError, printable
from biomlm.core.manifest import read_manifest
from biomlm.core.progress import progress
from biomlm.corpus.config import ShowConfig
from biomlm.corpus.documents import SPLITS, document_files, documents
from biomlm.corpus.pipeline.dropped import read_dropped
from biomlm.corpus.sources import BY_NAME
from biomlm.corpus.text.document import hash64
from biomlm.inputs.streams import open_lines

WIDTH = 100  # columns at most
HEADED = ("journal", "category", "date", "license")  # metadata shown in a document's head
REMEDY = "Build the documents again."


@dataclass(frozen=True)
class Shown:
    """A document and where it is.

    Args:
        split: The split.
        document: `{"text", "id", "metadata"}`.
    """

    split: str
    document: dict[str, Any]


def run(config: ShowConfig) -> None:
    """Print documents.

    Raises:
        DataError: This is no finished folder of documents, or an id is not in it.
    """
    read_manifest(config.docs, "corpus build")
    chosen = _sample(config) if config.sample else _by_id(config)
    for shown in chosen:
        _print(shown, config.private)
    missing = set(config.ids) - {shown.document["id"] for shown in chosen}
    drops = [drop for drop in read_dropped(config.docs) if drop["id"] in missing] if missing else []
    for drop in drops:
        instead = f"; {drop['instead']} is in its place" if drop["instead"] else ""
        print(printable(f"{drop['id']} · {drop['source']} · dropped: {drop['reason']}{instead}"))
    if absent := sorted(missing - {drop["id"] for drop in drops}):
        raise DataError(
            f"there is no document {', '.join(absent[:5])}",
            file=config.docs,
            remedy="Ids are as in `corpus show --sample 5`: pmid:NUMBER, pmcid:PMCNUMBER, ….",
        )


def _by_id(config: ShowConfig) -> list[Shown]:
    """Find documents in the order in which they are asked for; a line is parsed only if an id of them stands in it."""
    wanted = {id: b'"id":' + orjson.dumps(id) for id in config.ids}
    shown_by_id: dict[str, Shown] = {}
    for path, split in _shards(config):
        with path.open("rb") as file:
            for line in open_lines(file, remedy=REMEDY):
                if any(mark in line for mark in wanted.values()):
                    document = orjson.loads(line)
                    if document["id"] in wanted:
                        shown_by_id[document["id"]] = Shown(split, document)
        if len(shown_by_id) == len(wanted):
            break
    return [shown_by_id[id] for id in config.ids if id in shown_by_id]


def _sample(config: ShowConfig) -> list[Shown]:
    """Choose the documents whose ids have the lowest hashes, in their order."""

    def candidates() -> Iterator[tuple[int, int, Shown]]:
        number = 0
        for path, split in _shards(config):
            for document in documents(path):
                number += 1
                if not config.sources or document["metadata"]["source"] in config.sources:
                    yield hash64(str(config.seed), document["id"]), number, Shown(split, document)

    lowest = heapq.nsmallest(config.sample, candidates(), key=lambda candidate: candidate[:2])
    return [shown for _, _, shown in sorted(lowest, key=lambda candidate: candidate[1])]


def _shards(config: ShowConfig) -> Iterator[tuple[Path, str]]:
    shards = [(path, split) for split in SPLITS for path in document_files(config.docs, split)]
    with progress("reading", sum(path.stat().st_size for path, _ in shards), "B") as bar:
        for path, split in shards:
            yield path, split
            bar.advance(path.stat().st_size)


def _print(shown: Shown, private: bool) -> None:
    """Print one document, section by section; of a source that is not public its head alone, unless its text is asked for."""
    document, meta = shown.document, shown.document["metadata"]
    text = document["text"]
    is_open = private or BY_NAME[meta["source"]].public
    facts = [meta[name] for name in HEADED if name in meta and is_open]
    sizes = f"{len(text.split()):,} words, {len(meta['sentences']):,} sentences, {len(meta['links']):,} links"
    print(printable(" · ".join(map(str, (document["id"], meta["source"], shown.split, *facts, sizes)))))
    if not is_open:
        print("  (its text is not public: --private shows it)\n")
        return
    width = min(shutil.get_terminal_size().columns, WIDTH)
    for start, stop, title in meta["sections"]:
        print(printable(f"  {title}"))
        for line in text[start:stop].split("\n"):
            print(textwrap.fill(printable(line), width, initial_indent="    ", subsequent_indent="    "))
    print()
