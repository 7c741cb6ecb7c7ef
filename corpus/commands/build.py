"""`biomlm corpus build`: raw files → documents.

Two passes of tasks with one decision between them. Reading (parallel) turns each task's files into a part; resolving (alone) decides
about versions, duplicates and splits from the parts' keys; writing (parallel) puts every document in its place. Each task's result is
renamed into place when it is whole, so an interrupted build goes on with the tasks that are missing and ends with the same bytes.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from biomlm.core import files, manifest
from biomlm.core.errors import ConfigError, DataError
from biomlm.core.fields import listed
from biomlm.core.files import refuse_target, stage
from biomlm.core.progress import Bar, progress
from biomlm.core.summary import summary
from biomlm.corpus import card
from biomlm.corpus.config import BuildConfig
from biomlm.corpus.dedup.minhash import AddBands
from biomlm.corpus.filters.decontamination import MarkContaminated
from biomlm.corpus.filters.selection import MarkUnwanted
from biomlm.corpus.pipeline.citation_graph import write_aliases, write_graph
from biomlm.corpus.pipeline.decisions import decide
from biomlm.corpus.pipeline.dropped import save_instead, write_dropped
from biomlm.corpus.pipeline.executors import execute
from biomlm.corpus.pipeline.inputs import Input, find, tasks
from biomlm.corpus.pipeline.intermediate import WriteParts, part_folder, table
from biomlm.corpus.pipeline.read import ReadTask
from biomlm.corpus.pipeline.repeated_paragraphs import Treatment, drop_emptied, find_repeats
from biomlm.corpus.pipeline.write import (
    REPEATED,
    TOTALS,
    WriteShards,
    codes_path,
    counts_path,
    edges_path,
    number,
    renamed_path,
    repeats_path,
    retracted_path,
)
from biomlm.corpus.salt import Salt, find_salt
from biomlm.corpus.sources import BY_NAME, SOURCES
from biomlm.corpus.text.document import AddSentences
from biomlm.inputs.encodings import CP1252

STAGE = "corpus build"
WORK = ".work"
LISTED = 1000  # damaged records that the manifest lists one by one; all are counted
FOLDERS = ("train", "valid", "dropped", "graph")


@dataclass(frozen=True)
class StoredConfig(BuildConfig):
    """A build's configuration as its manifest holds it.

    Args:
        salt: The salt's fingerprint.
    """

    salt: str = ""


def run(config: BuildConfig) -> None:
    """Build a folder of documents.

    Raises:
        ConfigError: No input is named.
        DataError: An input is missing, or nothing readable is in any.
        MismatchError: The folder holds another build.
    """
    inputs = [item for source in SOURCES for item in find(source.name, getattr(config, source.name))]
    if not inputs:
        raise ConfigError(
            "there is nothing to read", remedy=f"Name files with {listed(f'--{source.name}' for source in SOURCES)}."
        )
    patients = any(BY_NAME[item.source].patients for item in inputs)
    salt = find_salt(config.salt_file, needed=patients, elsewhere=config.where.executor == "ray")
    out = Path(config.out).absolute()  # fsspec remembers what a relative path meant when it was first used
    evaluation = [Path(name) for name in config.select.decontaminate]
    named: list[str | Path] = [
        *(name for source in SOURCES for name in getattr(config, source.name)),
        *evaluation,
        *(item.path for item in inputs),
    ]
    refuse_target(config.out, named, option="--out", ours=stage)
    stored = StoredConfig(**{f.name: getattr(config, f.name) for f in fields(config)}, salt=_fingerprint(out, salt))
    record = manifest.begin(out, STAGE, stored, _hashes(inputs, evaluation), override=config.override)
    if record.status != "done":
        counts = _build(config, salt, inputs, out, record)
        card.write(out, record, counts, _facts(out / WORK, len(tasks(inputs))))
        outputs = [path for folder in FOLDERS for path in (out / folder).glob("*.gz")]
        record.finish(out, outputs, counts)
        shutil.rmtree(out / WORK)
    with manifest.counts_as_written(out, STAGE):
        show(out, record.counts)
    if patients and salt.weakness:
        summary("the salt of the patients' hashes", {salt.weakness: ""})


def _fingerprint(out: Path, salt: Salt) -> str:
    """Return the salt's fingerprint, of the former kind in a folder that was made with that."""
    try:
        earlier = manifest.read_manifest(out, STAGE, finished=False).config.get("salt")
    except DataError:  # no such folder yet, or one that `manifest.begin` refuses
        earlier = None
    return salt.former_fingerprint if earlier == salt.former_fingerprint else salt.fingerprint


def _hashes(inputs: list[Input], evaluation: list[Path]) -> dict[str, str]:
    hashes = {}
    for path in evaluation:
        if not path.is_file():
            raise DataError("there is no such evaluation file", file=path, remedy="Mend --select.decontaminate.")
        hashes[f"evaluation: {path}"] = files.sha256(path)
    with progress("hashing", sum(item.size for item in inputs), "B") as bar:
        for item in inputs:
            hashes[f"{item.source}: {item.path}"] = files.sha256(item.path)
            bar.advance(item.size, Path(item.path).name)
    return hashes


def _prepare(out: Path, record: manifest.Manifest, jobs: list[list[Input]]) -> Path:
    """Return the working folder, cleared of what another configuration (`override`) or a killed write left behind."""
    parts = [list(item.part) for job in jobs for item in job if item.part]  # 0.1 had none
    work, mark = out / WORK, manifest.digest([record.config_hash, record.inputs, *([parts] if parts else [])])
    if not (work / mark).exists():
        for folder in (WORK, *FOLDERS):
            shutil.rmtree(out / folder, ignore_errors=True)
    (work / "progress").mkdir(parents=True, exist_ok=True)
    (work / mark).touch()
    return work


def treatment(config: BuildConfig) -> Treatment:
    """Return what is done with paragraphs that repeat earlier ones."""
    return Treatment(config.template_patients, config.repeats == "remove", config.templates == "remove")


def _build(
    config: BuildConfig, salt: Salt, inputs: list[Input], out: Path, record: manifest.Manifest
) -> dict[str, Any]:
    """Run what is left of both passes and return the counts."""
    jobs = tasks(inputs)
    work = _prepare(out, record, jobs)
    with progress("reading", sum(item.size for item in inputs), "B") as bar:
        execute(
            _reading(config, salt, jobs, work),
            len(jobs),
            config.workers,
            config.where,
            work / "reading",
            _Watch(work / "progress", bar),
        )
    numbers = _decide(config, work, len(jobs))
    writing = [WriteShards(str(out), str(work), numbers, config.keep_dropped, treatment(config))]
    with progress("writing", len(jobs), "tasks") as bar:
        execute(
            writing,
            len(jobs),
            config.workers,
            config.where,
            work / "writing",
            _Completed(work / "writing" / "completions", bar),
        )
    counts = _totals(work, len(jobs))
    check(counts)
    if not any(source["kept"] for source in counts["sources"].values()):
        reasons = Counter({r: n for s in counts["sources"].values() for r, n in s["dropped"].items()})
        why = ", ".join([*(f"{n} {r}" for r, n in reasons.most_common(3)), *counts["problems"][:1]])
        raise DataError(
            f"no document is left ({why})",
            file=inputs[0].path,
            remedy="Check that the files are of the kind their option names, and what is selected.",
        )
    counts["graph"] = write_graph(out, _edges(work, len(jobs)))
    write_dropped(out, work, len(jobs))
    return counts


def _reading(config: BuildConfig, salt: Salt, jobs: list[list[Input]], work: Path) -> list[PipelineStep]:
    """Return the steps of the first pass."""
    options = {source.name: source.arguments(config) for source in SOURCES}
    steps: list[PipelineStep] = [
        ReadTask(jobs, str(work), options, salt, config.file_seconds),
        MarkUnwanted(config.min_words, config.select),
    ]
    if config.select.decontaminate:
        steps.append(MarkContaminated([Path(name) for name in config.select.decontaminate]))
    steps.append(AddSentences())
    if config.select.near_duplicates:
        steps.append(AddBands())
    return [*steps, WriteParts(str(work), salt, config.keep_dropped)]


def _decide(config: BuildConfig, work: Path, jobs: int) -> list[dict[str, dict[int, int]]]:
    """Decide about every document, save the decisions and return the numbers of the shards."""
    decisions = decide(work, jobs, config.valid_fraction, config.select.retracted)
    codes = decisions.codes
    repeats = find_repeats(work, codes, config.template_patients)
    drop_emptied(work, codes, repeats, treatment(config))
    for path, arrays in (
        (codes_path, codes),
        (renamed_path, decisions.renamed),
        (retracted_path, decisions.retracted),
        (repeats_path, repeats),
    ):
        for task, array in enumerate(arrays):
            with files.atomic_file(path(work, task)) as tmp, tmp.open("wb") as file:
                np.save(file, array)
    save_instead(work, decisions.instead)
    keys = [table(work, task, "keys") for task in range(jobs)]
    write_aliases(work, np.concatenate(keys), np.concatenate(codes))
    return number(codes, [of_task["file"] for of_task in keys], config.keep_dropped)


def _edges(work: Path, jobs: int) -> Iterator[tuple[str, list[str]]]:
    """Yield every article's id and the ids of the articles in the corpus that it cites."""
    for task in range(jobs):
        with edges_path(work, task).open(encoding="utf-8") as lines:
            for line in lines:
                id, *cited = line.rstrip("\n").split("\t")
                yield id, cited


class _Watch:
    """Advance the bar by the bytes that the tasks have read."""

    def __init__(self, folder: Path, bar: Bar):
        self.folder, self.bar, self.done = folder, bar, 0

    def __call__(self) -> None:
        done = sum(int(path.read_text() or 0) for path in self.folder.iterdir())
        self.bar.advance(done - self.done)
        self.done = done


class _Completed:
    """Advance the bar by the tasks that are completed."""

    def __init__(self, folder: Path, bar: Bar):
        self.folder, self.bar, self.done = folder, bar, 0

    def __call__(self) -> None:
        done = len(list(self.folder.glob("*")))
        self.bar.advance(done - self.done)
        self.done = done


def _totals(work: Path, jobs: int) -> dict[str, Any]:
    """Sum what both passes counted."""
    sources: dict[str, Any] = {}
    problems: list[str] = []
    deletes = renamed = without_patient = 0
    encodings: Counter[str] = Counter()
    units: Counter[str] = Counter()
    repeated = dict.fromkeys(REPEATED, 0)

    def of(source: str) -> dict[str, Any]:
        return sources.setdefault(source, {"records": 0, "kept": 0, "dropped": {}, "splits": {}})  # type: ignore[no-any-return]

    for task in range(jobs):
        read: dict[str, Any] = files.read_json(part_folder(work, task) / "counts.json")
        wrote: dict[str, Any] = files.read_json(counts_path(work, task))
        problems += read["problems"]
        deletes += read["deletes"]
        renamed += wrote["renamed"]
        without_patient += read.get("without_patient", 0)  # nor these
        units.update(read.get("units", {}))  # nor these
        encodings.update(read.get("encodings", {}))  # 0.1 did not count them
        repeated = {name: n + wrote[name] for name, n in repeated.items()}
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
    counts = {"sources": sources, "deletes": deletes, **repeated, "problems": problems[:LISTED]}
    rare = {"renamed": renamed, "without_patient": without_patient, CP1252: dict(+encodings), "units": dict(units)}
    return counts | {name: value for name, value in rare.items() if value}


def _facts(work: Path, jobs: int) -> card.Facts:
    """Sum what was counted of the kept documents' metadata."""
    facts: card.Facts = {}
    for task in range(jobs):
        wrote: dict[str, Any] = files.read_json(counts_path(work, task))
        for source, of_source in wrote.get("facts", {}).items():  # an interrupted build of 0.1 has none
            for name, values in of_source.items():
                facts.setdefault(source, {}).setdefault(name, Counter()).update(values)
    return facts


def check(counts: dict[str, Any]) -> None:
    """Check for every source that `records = kept + Σ dropped by reason`.

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
    graph = counts["graph"]
    if graph["edges"]:
        rows["citations inside the corpus"] = graph["edges"]
        rows["articles without any"] = f"{graph['isolated']:,} of {graph['documents']:,}"
    rows |= {f"{name.replace('_', ' ')} in notes": counts[name] for name in REPEATED if counts[name]}
    rows |= {f"{source}: read as {CP1252}": n for source, n in counts.get(CP1252, {}).items()}
    rows |= {f"text: documents of a {unit} each": n for unit, n in counts.get("units", {}).items()}
    if counts.get("without_patient"):
        rows["notes without a patient, each a patient of its own"] = counts["without_patient"]
    if counts.get("renamed"):
        rows["ids of unlike texts told apart by file"] = counts["renamed"]
    for problem in counts["problems"][:5]:
        rows[f"  {problem}"] = ""
    if len(counts["problems"]) > 5:
        rows[f"  … {len(counts['problems']) - 5} more in manifest.json"] = ""
    summary(f"corpus build → {out}", rows)
