"""`biolm corpus build`: raw files → documents.

Two passes of tasks with one decision between them. Reading (parallel) turns each task's files into a part; resolving (alone) decides
about versions, duplicates and splits from the parts' keys; writing (parallel) puts every document in its place. Each task's result is
renamed into place when it is whole, so an interrupted build goes on with the tasks that are missing and ends with the same bytes.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from biolm.core import files, manifest
from biolm.core.cli import Verb
from biolm.core.config import runtime
from biolm.core.errors import ConfigError, DataError
from biolm.core.progress import Bar, progress
from biolm.core.summary import summary
from biolm.corpus.document import AddSentences
from biolm.corpus.executors import LocalExecutor
from biolm.corpus.inputs import Input, find, tasks
from biolm.corpus.parts import WriteParts, keys, part_folder
from biolm.corpus.reading import MarkShort, ReadTask
from biolm.corpus.resolve import resolve
from biolm.corpus.shards import TOTALS, WriteShards, codes_path, counts_path, number

STAGE = "corpus build"
WORK = ".work"
FOLDERS = ("train", "valid", "dropped")


@dataclass(frozen=True)
class BuildConfig:
    """Raw PubMed, PMC, clinical notes and text → documents.

    Args:
        out: Folder to write documents to.
        pubmed: PubMed XML (.xml, .xml.gz): files, folders or globs.
        pmc: JATS articles (.xml, .nxml) and packages of them (.tar, .tar.gz, .tar.xz).
        notes: Clinical notes as CSV in MIMIC-III's or MIMIC-IV-Note's shape.
        text: Plain text (.txt, a document a file) and JSONL (a document a line).
        valid_fraction: Share of patients and articles that is held out.
        min_words: Fewest words of a document.
        tables: Include the cells of tables in PMC articles.
        note_columns: Columns of the notes' table where they are not MIMIC's: any of id, patient, text, category, description, date, error.
        salt: Key of the patients' hashes and of the split. Set your own for real patients; only its hash is stored.
        keep_dropped: Write what is dropped to `dropped/`, with the reason in its metadata.
        workers: Processes; 0 takes one a core.
        override: Go on in a folder that was made with another configuration or input.
    """

    out: str = field(metadata={"runtime": True})
    pubmed: list[str] = field(default_factory=list)
    pmc: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    valid_fraction: float = 0.02
    min_words: int = 5
    tables: bool = False
    note_columns: dict[str, str] = field(default_factory=dict)
    salt: str = "biolm"
    keep_dropped: bool = False
    workers: int = runtime(1)
    override: bool = runtime(False)

    def __post_init__(self) -> None:
        if not 0 <= self.valid_fraction < 1:
            raise ConfigError("valid_fraction must be at least 0 and below 1", remedy="Give a share such as 0.02.")
        if self.workers < 0 or self.min_words < 0:
            raise ConfigError("workers and min_words cannot be negative", remedy="Give a number from 0 on.")


def run(config: BuildConfig) -> None:
    """Build a folder of documents.

    Raises:
        ConfigError: No input is named.
        DataError: An input is missing, or nothing readable is in any.
        MismatchError: The folder holds another build.
    """
    inputs = [item for source in ("pubmed", "pmc", "notes", "text") for item in find(source, getattr(config, source))]
    if not inputs:
        raise ConfigError("there is nothing to read", remedy="Name files with --pubmed, --pmc, --notes or --text.")
    stored = replace(config, salt=sha256_of(config.salt.encode()).hexdigest())
    out = Path(config.out).absolute()  # fsspec remembers what a relative path meant when it was first used
    record = manifest.begin(out, STAGE, stored, _hashes(inputs), override=config.override)
    if record.status != "done":
        counts = _build(config, inputs, out, record)
        outputs = [path for folder in FOLDERS for path in (out / folder).glob("*.jsonl.gz")]
        record.finish(out, outputs, counts)
        shutil.rmtree(out / WORK)
    show(out, record.counts)


def _hashes(inputs: list[Input]) -> dict[str, str]:
    with progress("hashing", sum(item.size for item in inputs), "B") as bar:
        found = {}
        for item in inputs:
            found[f"{item.source}: {item.path}"] = files.sha256(item.path)
            bar.advance(item.size, Path(item.path).name)
    return found


def _prepare(out: Path, record: manifest.Manifest) -> Path:
    """The working folder, cleared of what another configuration (`override`) or a killed write left behind."""
    work, mark = out / WORK, manifest.digest([record.config_hash, record.inputs])
    if not (work / mark).exists():
        for folder in (WORK, *FOLDERS):
            shutil.rmtree(out / folder, ignore_errors=True)
    for folder in FOLDERS:
        for left in (out / folder).glob(".*.tmp"):
            left.unlink()
    (work / "progress").mkdir(parents=True, exist_ok=True)
    (work / mark).touch()
    return work


def _build(config: BuildConfig, inputs: list[Input], out: Path, record: manifest.Manifest) -> dict[str, Any]:
    """Run what is left of both passes; the counts."""
    work = _prepare(out, record)
    jobs = tasks(inputs)
    workers = config.workers or os.cpu_count() or 1
    reading = [
        ReadTask(jobs, str(work), config.salt, config.note_columns, config.tables),
        MarkShort(config.min_words),
        AddSentences(),
        WriteParts(str(work), config.salt, config.keep_dropped),
    ]
    total = sum(item.size for item in inputs)
    with progress("reading", total, "B") as bar:
        _execute(reading, len(jobs), workers, work / "reading", _Watch(work / "progress", bar))
    codes = resolve(work, len(jobs), config.valid_fraction)
    for task, of_task in enumerate(codes):
        with files.atomic_file(codes_path(work, task)) as tmp, tmp.open("wb") as file:
            np.save(file, of_task)
    numbers = number(codes, [keys(work, task)["file"] for task in range(len(jobs))], config.keep_dropped)
    writing: list[PipelineStep] = [WriteShards(str(out), str(work), numbers, config.keep_dropped)]
    with progress("writing", len(jobs), "tasks") as bar:
        _execute(writing, len(jobs), workers, work / "writing", _Completed(work / "writing" / "completions", bar))
    counts = _totals(work, len(jobs))
    check(counts)
    if not any(source["kept"] for source in counts["sources"].values()):
        reasons = Counter({r: n for s in counts["sources"].values() for r, n in s["dropped"].items()})
        why = ", ".join(f"{n} {r}" for r, n in reasons.most_common(3)) or "no records were found"
        raise DataError(
            f"no document is left ({why})",
            file=inputs[0].path,
            remedy="Check that the files are of the kind their option names.",
        )
    return counts


def _execute(pipeline: list[PipelineStep], jobs: int, workers: int, marks: Path, watch: Callable[[], None]) -> None:
    LocalExecutor(pipeline, jobs, workers, str(marks), watch).run()
    watch()


class _Watch:
    """Moves the bar by what the tasks say they have read."""

    def __init__(self, folder: Path, bar: Bar):
        self.folder, self.bar, self.done = folder, bar, 0

    def __call__(self) -> None:
        done = sum(int(path.read_text() or 0) for path in self.folder.iterdir())
        self.bar.advance(done - self.done)
        self.done = done


class _Completed:
    """Moves the bar by the tasks that are completed."""

    def __init__(self, folder: Path, bar: Bar):
        self.folder, self.bar, self.done = folder, bar, 0

    def __call__(self) -> None:
        done = len(list(self.folder.glob("*")))
        self.bar.advance(done - self.done)
        self.done = done


def _totals(work: Path, jobs: int) -> dict[str, Any]:
    """Add up what both passes counted."""
    sources: dict[str, Any] = {}
    problems: list[str] = []
    deletes = 0

    def of(source: str) -> dict[str, Any]:
        return sources.setdefault(source, {"records": 0, "kept": 0, "dropped": {}, "splits": {}})  # type: ignore[no-any-return]

    for task in range(jobs):
        read: dict[str, Any] = files.read_json(part_folder(work, task) / "counts.json")
        wrote: dict[str, Any] = files.read_json(counts_path(work, task))
        problems += read["problems"]
        deletes += read["deletes"]
        for source, n in read["records"].items():
            of(source)["records"] += n
        for dropped in (read["dropped"], wrote["dropped"]):
            for source, reasons in dropped.items():
                into = of(source)["dropped"]
                into |= {reason: into.get(reason, 0) + n for reason, n in reasons.items()}
        for source, splits in wrote["kept"].items():
            for split, totals in splits.items():
                into = of(source)["splits"].setdefault(split, dict.fromkeys(TOTALS, 0))
                for name, n in totals.items():
                    into[name] += n
                of(source)["kept"] += totals["documents"]
    return {"sources": sources, "deletes": deletes, "problems": problems}


def check(counts: dict[str, Any]) -> None:
    """Hold every source to `records = kept + Σ dropped by reason`.

    Raises:
        RuntimeError: It does not hold: a fault of ours, and the build must not be used.
    """
    for source, n in counts["sources"].items():
        dropped = sum(n["dropped"].values())
        if n["records"] != n["kept"] + dropped:
            raise RuntimeError(f"{source}: {n['records']} records, but {n['kept']} kept and {dropped} dropped")


def show(out: Path, counts: dict[str, Any]) -> None:
    """Print the closing summary, the identity of records included."""
    rows: dict[str, object] = {}
    for source, n in counts["sources"].items():
        dropped = sum(n["dropped"].values())
        rows[f"{source}: records = kept + dropped"] = f"{n['records']:,} = {n['kept']:,} + {dropped:,}"
        for reason, count in sorted(n["dropped"].items()):
            rows[f"  {source} dropped: {reason}"] = count
        for split, totals in sorted(n["splits"].items()):
            rows[f"  {source} {split}"] = f"{totals['documents']:,} documents, {totals['words']:,} words"
    for problem in counts["problems"][:5]:
        rows[f"  {problem}"] = ""
    if len(counts["problems"]) > 5:
        rows[f"  … {len(counts['problems']) - 5} more in manifest.json"] = ""
    summary(f"corpus build → {out}", rows)


VERB = Verb(
    config=BuildConfig,
    run=run,
    example="biolm corpus build --pubmed pubmed25n0001.xml.gz --pmc articles/ --notes NOTEEVENTS.csv.gz --out docs",
)
