"""Parts: what one task read, on its way to the output.

    WORK/parts/00012/00000.jsonl.gz …   documents, in the order of the input
    WORK/parts/00012/keys.bin           one row a document: what duplicates, versions and splits are decided by
    WORK/parts/00012/deletes.bin        PMIDs that update files take back
    WORK/parts/00012/bands.bin          MinHash bands, where near-duplicates are looked for
    WORK/parts/00012/paragraphs.bin     the longer paragraphs of notes: where they are, hashes of text alone and of patient and text
    WORK/parts/00012/retracted.bin      articles that a document says are retracted, itself among them
    WORK/parts/00012/title_only.bin     numbers of the articles of which nothing but the title is there
    WORK/parts/00012/aside.jsonl        documents that filters put aside: id, source, reason
    WORK/parts/00012/counts.json        records, drops by reason, problems

A part's folder is renamed into place when it is whole, so a task is either done or not begun.
"""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import orjson
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from biomlm.core.files import atomic_dir, write_json
from biomlm.corpus.dedup.minhash import BANDS, BANDS_KEY
from biomlm.corpus.readers.pubmed import DELETES
from biomlm.corpus.salt import Salt
from biomlm.corpus.sources import BY_NAME, NUMBERS
from biomlm.corpus.text.document import DROPPED, ENCODING, PLACE, PROBLEM, RETRACTS, UNIT, hash64, lines
from biomlm.inputs.streams import scratch

PART_BYTES = 64 << 20  # bytes of JSON in one file of documents
IDS = ("pmid", "pmcid", "doi")
TITLES = ("Title", "Vernacular title")
KEYS = np.dtype(
    [("file", "u4"), ("source", "u1"), ("id", "u8"), ("pmid", "u8"), ("pmcid", "u8"), ("doi", "u8"), ("version", "u4"), ("revised", "u4"),
     ("text", "u8"), ("split", "u8"), ("lines", "u4"), ("set_aside", "?")]
)  # fmt: skip
PARAGRAPHS = np.dtype([("document", "u4"), ("line", "u4"), ("text", "u8"), ("own", "u8")])
TABLES = {
    "keys": KEYS,
    "deletes": np.dtype([("row", "i8"), ("pmid", "i8")]),
    "bands": np.dtype(("u8", BANDS)),
    "paragraphs": PARAGRAPHS,
    "retracted": np.dtype([("row", "u4"), ("pmid", "u8"), ("pmcid", "u8"), ("doi", "u8")]),
    "title_only": np.dtype("u4"),
}
NEW = ("retracted", "title_only")  # tables that 0.1 did not write

DIGITS = 18  # of a number that 64 bits hold; one that has more is no PMID
MOST_VERSION = (1 << 32) - 1
CHUNK = 4096  # rows held before they are written
FEWEST = 8  # words of a paragraph of which repeats are looked for
LISTED = 100  # damaged records of a part that are listed one by one; all are counted


class WriteParts(PipelineStep):  # type: ignore[misc]
    """Write what the task's readers yield as one part; the last step of reading.

    Args:
        work: The working folder.
        salt: Where the salt stands that goes into the hash that decides the split.
        keep_dropped: Write documents that are put aside, too.
    """

    type, name = "✍ - WRITER", "parts"

    def __init__(self, work: str, salt: Salt, keep_dropped: bool):
        super().__init__()
        self.work, self.salt, self.keep_dropped = work, salt, keep_dropped

    def run(self, data: DocumentsPipeline, rank: int = 0, _world_size: int = 1) -> DocumentsPipeline:
        """Write every document; yield nothing."""
        with atomic_dir(part_folder(self.work, rank)) as folder:
            with _Part(folder, self.salt.text, self.keep_dropped) as part:
                for document in data:
                    part.add(document)
            part.write_tables()
        yield from ()


def aside_path(work: str | Path, task: int) -> Path:
    """Return the path of the list of documents that a task put aside when it read them."""
    return part_folder(work, task) / "aside.jsonl"


def dropped_line(id: str, source: str, reason: str, instead: str | None = None) -> bytes:
    """Return a line of the list of what was dropped; `instead` is the id of what is kept in its place."""
    return orjson.dumps({"id": id, "source": source, "reason": reason, "instead": instead}) + b"\n"


def part_folder(work: str | Path, task: int) -> Path:
    """Return the folder of a task's part."""
    return Path(work) / "parts" / f"{task:05d}"


class _Part:
    def __init__(self, folder: Path, salt: str, keep_dropped: bool):
        self.folder, self.salt, self.keep_dropped = folder, salt, keep_dropped
        self.records: Counter[str] = Counter()
        self.dropped: dict[str, Counter[str]] = {}
        self.problems: list[str] = []
        self.encodings: Counter[str] = Counter()
        self.units: Counter[str] = Counter()
        self.without_patient = 0
        self.deletes = self.documents = 0
        self.stack = ExitStack()
        self.tables = {name: _Table(folder / f"{name}.bin", kind) for name, kind in TABLES.items()}
        self.file: IO[bytes] | None = None
        self.files = self.bytes = 0

    def __enter__(self) -> "_Part":
        self.aside = (self.folder / "aside.jsonl").open("wb")
        return self

    def __exit__(self, *error: Any) -> None:
        self.aside.close()
        self.stack.close()

    def add(self, document: Document) -> None:
        meta = document.metadata
        if DELETES in meta:
            for pmid in (pmid for pmid in meta[DELETES] if pmid < 10**DIGITS):
                self.tables["deletes"].append((self.documents, pmid))
                self.deletes += 1
            return
        source, reason = meta["source"], meta.get(DROPPED)
        self.records[source] += 1
        self.encodings[source] += ENCODING in meta
        if unit := meta.pop(UNIT, ""):
            self.units[unit] += 1
        if reason:
            if not has_versions(meta):
                self.dropped.setdefault(source, Counter())[reason] += 1
                self.aside.write(dropped_line(document.id, source, reason))
            if (problem := meta.get(PROBLEM)) and len(self.problems) < LISTED:
                self.problems.append(problem)
            if not (self.keep_dropped or has_versions(meta)):
                return
        self.without_patient += BY_NAME[source].patients and not reason and "patient" not in meta
        version, retracts = meta.pop("version", (0, 0)), meta.pop(RETRACTS, [])
        if (bands := meta.pop(BANDS_KEY, None)) is not None:
            self.tables["bands"].append(bands)
        if BY_NAME[source].patients:
            self._note_paragraphs(document, meta.get("patient", document.id))
        if has_versions(meta) and all(path in TITLES for *_, path in meta["sections"]):
            self.tables["title_only"].append(self.documents)
        self._write(document if not reason or self.keep_dropped else _mark_of(document))
        self.tables["keys"].append(self._key(document, version, bool(reason)))
        own = [f"{name}:{meta[name]}" for name in ("pmid", "pmcid", "doi") if name in meta and meta.get("retracted")]
        for name, _, value in (article.partition(":") for article in (*own, *retracts)):
            self.tables["retracted"].append(
                (self.documents, *(_number(name, value) if name == kind else 0 for kind in IDS))
            )
        self.documents += 1

    def _key(self, document: Document, version: tuple[int, int], set_aside: bool) -> tuple[Any, ...]:
        meta = document.metadata
        pmid = meta.get("pmid", "")
        group = meta.get("patient") or (pmid and f"pmid:{pmid}") or meta.get("translation_of", document.id)
        return (
            self.files - 1,
            NUMBERS[meta["source"]],
            hash64(document.id),
            *(_number(name, meta.get(name, "")) for name in IDS),
            *(min(number, MOST_VERSION) for number in version),
            hash64(document.text),
            hash64(self.salt, group),
            lines(document.text),
            set_aside,
        )

    def _note_paragraphs(self, document: Document, patient: str) -> None:
        for number, line in enumerate(document.text.split("\n")):
            if line.count(" ") >= FEWEST - 1:
                self.tables["paragraphs"].append((self.documents, number, hash64(line), hash64(patient, line)))

    def _write(self, document: Document) -> None:
        if self.file is None:
            self.file = self.stack.enter_context(scratch(self.folder / f"{self.files:05d}.jsonl.gz"))
            self.files, self.bytes = self.files + 1, 0
        line = orjson.dumps(
            {"text": document.text, "id": document.id, "metadata": document.metadata}, option=orjson.OPT_APPEND_NEWLINE
        )
        self.bytes += self.file.write(line)
        if self.bytes >= PART_BYTES:
            self.stack.close()
            self.file = None

    def write_tables(self) -> None:
        for table in self.tables.values():
            table.flush()
        counts = {"records": self.records, "dropped": self.dropped, "problems": self.problems}
        more = {
            "deletes": self.deletes,
            "encodings": self.encodings,
            "units": self.units,
            "without_patient": self.without_patient,
        }
        write_json(self.folder / "counts.json", {**counts, **more})


def has_versions(meta: dict[str, Any]) -> bool:
    """Return whether a record may have other versions or be deleted: it is counted when all records have been read.

    A selection that looked at it alone would put a retraction aside and keep what was retracted.
    """
    return BY_NAME[meta["source"]].articles and ("pmid" in meta or "pmcid" in meta)


def _number(kind: str, id: str) -> int:
    """Return a PMID or PMCID as a number, a DOI's hash; 0 for none."""
    if kind == "doi":
        return hash64(id) if id else 0
    digits = id.removeprefix("PMC")
    return int(digits) if digits.isdecimal() and len(digits) <= DIGITS else 0


def _mark_of(document: Document) -> Document:
    """Reduce a record that is put aside but has versions to what is written of it."""
    kept = {name: document.metadata[name] for name in ("source", *IDS, PLACE, DROPPED) if name in document.metadata}
    return Document(text="", id=document.id, metadata=kept)


def table(work: str | Path, task: int, name: str) -> npt.NDArray[Any]:
    """Read a table of a part, see `TABLES`."""
    path = part_folder(work, task) / f"{name}.bin"
    rows: npt.NDArray[Any] = (
        np.fromfile(path, TABLES[name]) if name not in NEW or path.exists() else np.zeros(0, TABLES[name])
    )
    return rows


class _Table:
    """Append rows of one kind to a file; a few thousand are held in memory at a time, however many there are."""

    def __init__(self, path: Path, kind: np.dtype[Any]):
        self.path, self.kind = path, kind
        self.rows: list[Any] = []
        path.touch()

    def append(self, row: Any) -> None:
        self.rows.append(row)
        if len(self.rows) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        with self.path.open("ab") as file:
            np.array(self.rows, dtype=self.kind.base).tofile(file)
        self.rows = []
