"""From parts and decisions to the output: every kept document into its split, every other one counted."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from biomlm.core.files import atomic_file, write_json
from biomlm.corpus.pipeline.citation_graph import Aliases
from biomlm.corpus.pipeline.decisions import REASONS, TRAIN, VALID
from biomlm.corpus.pipeline.dropped import DropWriter
from biomlm.corpus.pipeline.intermediate import has_versions, part_folder, table
from biomlm.corpus.pipeline.repeated_paragraphs import Table, Treatment
from biomlm.corpus.sources import BY_NAME
from biomlm.corpus.text.document import DROPPED, PLACE, RETRACTED, without_lines, words
from biomlm.inputs.streams import compressed, open_lines

LEVEL = 5  # gzip's level: another one changes the bytes, and so the hash, of documents built anew from the same records
REMEDY = "Begin again with --override."
FOLDERS = {TRAIN: "train", VALID: "valid"}
TOTALS = ("documents", "words", "characters", "sections", "sentences", "links")
REPEATED = ("repeated_paragraphs", "template_paragraphs")
FACTS = {"year": "years", "license": "licences", "languages": "languages"}  # of the metadata → as counted by source

Numbers = list[dict[str, dict[int, int]]]  # for each task: split folder → file of the part → number of the shard


class WriteShards(PipelineStep):  # type: ignore[misc]
    """Write a task's part as shards of the splits, and its counts beside them.

    Args:
        out: The output folder.
        work: The working folder with parts, decisions, repeats and aliases.
        numbers: The numbers of the shards.
        keep_dropped: Write what is dropped to `dropped/`, with the reason in its metadata.
        treatment: Which repeated paragraphs are taken out of notes; the others are counted.
    """

    type, name = "✍ - WRITER", "shards"

    def __init__(self, out: str, work: str, numbers: Numbers, keep_dropped: bool, treatment: Treatment):
        super().__init__()
        self.out, self.work, self.numbers = out, work, numbers
        self.keep_dropped, self.treatment = keep_dropped, treatment

    def run(self, _data: DocumentsPipeline, rank: int = 0, _world_size: int = 1) -> DocumentsPipeline:
        """Write the shards of task `rank`; yield nothing."""
        with (
            DropWriter(self.work, rank) as drops,
            atomic_file(edges_path(self.work, rank)) as tmp,
            tmp.open("wb") as edges,
        ):
            task = _Task(self.work, rank, drops, self.keep_dropped, self.treatment)
            for path in sorted(part_folder(self.work, rank).glob("*.jsonl.gz")):
                file = int(path.name[:5])
                numbers = {folder: of_file[file] for folder, of_file in self.numbers[rank].items() if file in of_file}
                with _opened(self.out, numbers) as shards:
                    task.write(path, file, shards, edges)
        write_json(counts_path(self.work, rank), task.counts)
        yield from ()


class _Task:
    """Write one task's documents and count them."""

    def __init__(self, work: str, rank: int, drops: DropWriter, keep_dropped: bool, treatment: Treatment):
        self.drops, self.keep_dropped, self.treatment = drops, keep_dropped, treatment
        self.codes = np.load(codes_path(work, rank), allow_pickle=False)
        self.files = table(work, rank, "keys")["file"]
        self.repeats = np.load(repeats_path(work, rank), allow_pickle=False)
        self.renamed = np.load(renamed_path(work, rank), allow_pickle=False)
        self.retracted = np.load(retracted_path(work, rank), allow_pickle=False)
        self.aliases = Aliases(work)
        self.counts: dict[str, Any] = {
            "kept": {},
            "dropped": {},
            "facts": {},
            "renamed": 0,
            **dict.fromkeys(REPEATED, 0),
        }

    def write(self, part: Path, file: int, shards: dict[str, IO[bytes]], edges: IO[bytes]) -> None:
        """Write the documents of one file of the part."""
        rows = np.flatnonzero(self.files == file)
        with part.open("rb") as lines:
            for line, row in zip(open_lines(lines, remedy=REMEDY), rows, strict=True):
                code, document = int(self.codes[row]), orjson.loads(line)
                meta = document["metadata"]
                place = meta.pop(PLACE, None)  # parts of 0.1 have none, and what they put aside is counted there
                counted = DROPPED in meta and (place is None or not has_versions(meta))
                if self.retracted[row]:
                    meta[RETRACTED] = True
                if self.renamed[row]:
                    document["id"] += f"@{place or row}"
                    self.counts["renamed"] += code in FOLDERS
                self.drops.see(int(row), document["id"])
                if code in FOLDERS:
                    self.keep(document, int(row), FOLDERS[code], edges)
                    shards[FOLDERS[code]].write(_line(document))
                    continue
                if not counted:
                    meta[DROPPED] = REASONS.get(code) or meta[DROPPED]
                    self.counts["dropped"].setdefault(meta["source"], Counter())[meta[DROPPED]] += 1
                    self.drops.drop(int(row), id=document["id"], source=meta["source"], reason=meta[DROPPED])
                if self.keep_dropped:
                    shards["dropped"].write(_line(document))

    def keep(self, document: dict[str, Any], row: int, folder: str, edges: IO[bytes]) -> None:
        """Finish a document that is kept: links, repeats, counts."""
        meta = document["metadata"]
        self._treat(document, self.repeats[slice(*np.searchsorted(self.repeats["document"], (row, row + 1)))])
        meta["links"], cited_inside = self.aliases.resolved(meta["links"], document["id"])
        if BY_NAME[meta["source"]].articles:
            edges.write("\t".join((document["id"], *cited_inside)).encode() + b"\n")
        totals = self.counts["kept"].setdefault(meta["source"], {}).setdefault(folder, dict.fromkeys(TOTALS, 0))
        text = document["text"]
        sizes = (1, words(text), len(text), len(meta["sections"]), len(meta["sentences"]), len(meta["links"]))
        for name, value in zip(TOTALS, sizes, strict=True):
            totals[name] += value
        facts = self.counts["facts"].setdefault(meta["source"], {name: Counter() for name in FACTS.values()})
        for field, name in FACTS.items():
            values = meta.get(field, "")
            for value in values if isinstance(values, list) else [values]:
                # A table of one's own may hold anything in these columns; a year is a number.
                facts[name][str(value) if isinstance(value, int) or BY_NAME[meta["source"]].public else ""] += 1

    def _treat(self, document: dict[str, Any], repeats: Table) -> None:
        """Count a document's repeated paragraphs, and take out those that are not wanted."""
        if not len(repeats):
            return
        templates = int(repeats["template"].sum())
        for name, number in zip(REPEATED, (len(repeats) - templates, templates), strict=True):
            if number:
                self.counts[name] += number
                document["metadata"][name] = number
        if len(gone := repeats["line"][self.treatment.gone(repeats)]):
            without_lines(document, gone.tolist())


def codes_path(work: str | Path, task: int) -> Path:
    """Return the path of the decisions about a part."""
    return Path(work) / "codes" / f"{task:05d}.npy"


def renamed_path(work: str | Path, task: int) -> Path:
    """Return the path of the flags of a part's documents that have the id of another one with another text."""
    return Path(work) / "renamed" / f"{task:05d}.npy"


def retracted_path(work: str | Path, task: int) -> Path:
    """Return the path of the flags of a part's documents that are retracted."""
    return Path(work) / "retracted" / f"{task:05d}.npy"


def repeats_path(work: str | Path, task: int) -> Path:
    """Return the path of a part's repeated paragraphs."""
    return Path(work) / "repeats" / f"{task:05d}.npy"


def counts_path(work: str | Path, task: int) -> Path:
    """Return the path of what was counted while a part's shards were written."""
    return Path(work) / "counts" / f"{task:05d}.json"


def edges_path(work: str | Path, task: int) -> Path:
    """Return the path of the citations inside the corpus from a part's articles: a line for each, its id and those of the cited."""
    return Path(work) / "edges" / f"{task:05d}.tsv"


def number(codes: list[Any], files: list[Any], keep_dropped: bool) -> Numbers:
    """Number the shards of every split without gaps.

    Args:
        codes: For each task, the decision about each document.
        files: For each task, the file of the part that holds it.
        keep_dropped: Dropped documents have shards, too.
    """
    following: Counter[str] = Counter()
    numbers: Numbers = []
    for of_task, of_file in zip(codes, files, strict=True):
        by_folder: dict[str, dict[int, int]] = {}
        for folder, chosen in (("train", of_task == TRAIN), ("valid", of_task == VALID), ("dropped", of_task > VALID)):
            if folder == "dropped" and not keep_dropped:
                continue
            for file in np.unique(of_file[chosen]):
                by_folder.setdefault(folder, {})[int(file)] = following[folder]
                following[folder] += 1
        numbers.append(by_folder)
    return numbers


def _line(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


@contextmanager
def _opened(out: str, numbers: dict[str, int]) -> Iterator[dict[str, IO[bytes]]]:
    """Open the shards of one part, folder → file, and put them all in place at the end."""
    with ExitStack() as stack:
        files = {}
        for folder, number in numbers.items():
            place = stack.enter_context(atomic_file(Path(out) / folder / f"{number:05d}.jsonl.gz"))
            files[folder] = stack.enter_context(compressed(place, LEVEL))
        yield files
