"""Collect what the folders of a launch hold from their manifests, metrics and results.

The reader is tolerant: a file that is missing or damaged becomes a line in `missing`, and all else is still shown.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from biomlm.core.errors import DataError
from biomlm.core.files import read_json
from biomlm.core.manifest import NAME as MANIFEST
from biomlm.core.manifest import Manifest
from biomlm.core.metrics import read_metrics
from biomlm.core.progress import clock
from biomlm.launch.state import NAME as LAUNCH
from biomlm.launch.state import State, read_state

RUN_STAGES = ("pretrain", "distill")
EVALUATE = "pretrain evaluate"
CONVERSION = "conversion.json"
RESULT = "result.json"
SCORES = "scores.json"


@dataclass
class Folder:
    """One stage's output.

    Args:
        name: The folder's name, made unique by the report.
        path: The folder.
        manifest: Its manifest, `{}` if it has none.
    """

    name: str
    path: Path
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """The verb that wrote it."""
        return str(self.manifest.get("stage", ""))

    @property
    def counts(self) -> dict[str, Any]:
        """The numbers of its manifest."""
        return mapping(self.manifest.get("counts"))

    @property
    def config_hash(self) -> str:
        """The hash of its configuration."""
        return str(self.manifest.get("config_hash", ""))

    @property
    def fingerprint(self) -> str:
        """The hash by which later stages refer to it."""
        return Manifest(self.stage, {}, self.config_hash, outputs=mapping(self.manifest.get("outputs"))).fingerprint


@dataclass
class Run(Folder):
    """A run folder of pretraining or distillation, or an evaluation, which has a result alone.

    Args:
        metrics: The records of `metrics.jsonl`.
        result: `result.json`, `{}` before the run's end.
    """

    metrics: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def valid(self) -> dict[str, Any]:
        """The last held-out evaluation."""
        return mapping(self.result.get("valid"))

    def curve(self, split: str, *names: str) -> list[tuple[float, float]]:
        """Give (tokens read, value) of every record of a split; the value is that of the first of `names` that the record has.

        A held-out record counts its own tokens, so it is placed by its step, among the training records or in proportion.
        """
        return [
            (self._tokens_at(finite(r.get("step"))), finite(next((r[n] for n in names if n in r), None)))
            for r in self.metrics
            if r.get("split") == split
        ]

    def _tokens_at(self, step: float) -> float:
        if step in self._read:
            return self._read[step]
        per_step = [tokens / at for at, tokens in self._read.items() if at]
        return step * (per_step[-1] if per_step else 1.0)

    @cached_property
    def _read(self) -> dict[float, float]:
        """Step → tokens read in training so far."""
        return {finite(r.get("step")): finite(r.get("tokens")) for r in self.metrics if r.get("split") == "train"}


@dataclass
class ReportData:
    """All that a report shows, in the order of the folders given.

    Args:
        launch: The state in `launch.json`, if there is one.
        corpora: Folders of documents.
        tokenizers: Tokenizer folders.
        shards: Folders of token shards.
        runs: Run folders.
        evaluations: Folders of `pretrain evaluate`: what models that are not trained here do on held-out text.
        conversions: Name → `conversion.json` of every converted model.
        fills: Name → a file of filled-in masks.
        scores: Name → `scores.json` of every fine-tuned model.
        others: Folders of other stages.
        missing: What could not be read, one sentence each.
    """

    launch: State | None = None
    corpora: list[Folder] = field(default_factory=list)
    tokenizers: list[Folder] = field(default_factory=list)
    shards: list[Folder] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    evaluations: list[Run] = field(default_factory=list)
    conversions: dict[str, dict[str, Any]] = field(default_factory=dict)
    fills: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: list[Folder] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def folders(self) -> list[Folder]:
        """Every folder with a manifest."""
        return [*self.corpora, *self.tokenizers, *self.shards, *self.evaluations, *self.runs, *self.others]


def mapping(value: object) -> dict[str, Any]:
    """Return the value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def finite(value: object) -> float:
    """Return the value as a float; NaN for anything that is no finite number."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else math.nan  # type: ignore[arg-type]


def largest(value: object) -> float:
    """Return the largest number of a list, or the number itself; NaN without one."""
    return max((finite(v) for v in value), default=math.nan) if isinstance(value, list) else finite(value)


def collect(paths: Sequence[str | Path]) -> ReportData:
    """Read stage folders, or folders of stage folders such as a launch's.

    Raises:
        DataError: One of the paths is no folder, or nothing in it was written by biomlm.
    """
    data = ReportData()
    for path in map(Path, paths):
        if not path.is_dir():
            raise DataError(
                "there is no such folder", file=path, remedy="Give run folders, or a launch's output folder."
            )
        before = len(data.folders) + len(data.conversions) + len(data.missing)
        for folder in _stage_folders(path, data):
            _add(folder, data)
        if len(data.folders) + len(data.conversions) + len(data.missing) == before:
            raise DataError("nothing in it was written by biomlm", file=path, remedy="Give run folders, or a launch's.")
    return data


def _stage_folders(path: Path, data: ReportData) -> Iterator[Path]:
    """Yield the folder itself if a stage wrote it, else the stage folders in it, a launch's in the recipe's order."""
    if (path / MANIFEST).exists() or (path / CONVERSION).exists():
        yield path
        return
    order: list[str] = []
    if (path / LAUNCH).exists():
        try:
            state = read_state(path)
        except DataError as error:
            data.missing.append(f"{LAUNCH}: {error.problem}")
        else:
            data.launch = data.launch or state
            order = [output for record in state.stages for output in record.outputs]
    children = [child for child in path.iterdir() if not child.name.startswith(".")]
    for child in sorted(children, key=lambda c: (order.index(c.name) if c.name in order else len(order), c.name)):
        if (child / MANIFEST).exists() or (child / CONVERSION).exists():
            yield child
        elif child.name.startswith("fill") and child.suffix == ".json" and (fill := _read(child, data)):
            data.fills[child.stem] = fill


def _add(path: Path, data: ReportData) -> None:
    manifest = _read(path / MANIFEST, data) if (path / MANIFEST).exists() else {}
    stage, name = str(manifest.get("stage", "")), path.name or str(path.resolve().name)
    if (path / CONVERSION).exists():
        data.conversions[name] = _read(path / CONVERSION, data)
        return
    if stage in RUN_STAGES:
        data.runs.append(_run(name, path, manifest, data))
        return
    if stage == EVALUATE:
        data.evaluations.append(_run(name, path, manifest, data))
        return
    kinds = {"corpus build": data.corpora, "tokenizer train": data.tokenizers, "tokenizer encode": data.shards}
    kinds.get(stage, data.others).append(Folder(name, path, manifest))
    if stage == "finetune" and (path / SCORES).exists():
        data.scores[name] = _read(path / SCORES, data)
    if manifest.get("status") != "done":
        data.missing.append(f"{name}: `{stage}` has not finished")


def _run(name: str, path: Path, manifest: dict[str, Any], data: ReportData) -> Run:
    result: dict[str, Any] = {}
    if (path / RESULT).exists():
        result = _read(path / RESULT, data)
    else:
        data.missing.append(f"{name}: no {RESULT} yet, the run has not finished")
    try:
        metrics = read_metrics(path)
    except ValueError:
        metrics = []
        data.missing.append(f"{name}: metrics.jsonl is damaged")
    return Run(name, path, manifest, metrics, result)


def _read(path: Path, data: ReportData) -> dict[str, Any]:
    try:
        return read_json(path)
    except DataError as error:
        data.missing.append(f"{path.parent.name}/{path.name}: {error.problem}")
        return {}


def by_source(corpus: Folder) -> dict[str, dict[str, Any]]:
    """Sort the sources: name → its counts `records`, `kept`, `dropped` by reason, `splits`; the sources with the most records first."""
    sources = {name: mapping(counts) for name, counts in mapping(corpus.counts.get("sources")).items()}
    return dict(sorted(sources.items(), key=lambda item: -number(item[1], "records")))


def number(counts: dict[str, Any], name: str) -> int:
    """Return a count; 0 where there is none."""
    value = counts.get(name, 0)
    return value if isinstance(value, int) else 0


def total(corpus: Folder, name: str) -> int:
    """Sum `records` or `kept` over all sources."""
    return sum(number(counts, name) for counts in by_source(corpus).values())


def dropped(corpus: Folder) -> dict[str, int]:
    """Count dropped documents by reason, over all sources, the most frequent first."""
    reasons: Counter[str] = Counter()
    for counts in by_source(corpus).values():
        reasons.update(mapping(counts.get("dropped")))
    return {reason: n for reason, n in reasons.most_common() if n}


def tokens(shards: Folder) -> dict[str, int]:
    """Return the tokens of each split."""
    return {split: number(mapping(c), "tokens") for split, c in shards.counts.items() if "tokens" in mapping(c)}


def summary_rows(data: ReportData) -> dict[str, object]:
    """Give the rows of `biomlm launch`'s summary: what went in, what came out, how well, how long."""
    rows: dict[str, object] = {}
    for corpus in data.corpora:
        rows["records in"] = total(corpus, "records")
        rows["documents kept"] = total(corpus, "kept")
        rows |= {f"  dropped: {reason}": n for reason, n in dropped(corpus).items()}
    for shards in data.shards:
        rows |= {f"tokens, {split}": n for split, n in tokens(shards).items()}
    for run in [*data.evaluations, *data.runs]:
        rows |= _run_rows(run)
    for entropy in [finite(run.result.get("unigram_entropy")) for run in data.runs if run.result][:1]:
        rows["held-out unigram entropy (nats)"] = entropy
    for name, check in data.conversions.items():
        rows[f"{name}: largest difference of logits"] = f"{finite(check.get('max_difference_logits')):.2g}"
    if data.launch:
        rows |= {f"time, {record.name}": clock(record.seconds) for record in data.launch.stages}
        rows["time, all stages"] = clock(sum(record.seconds for record in data.launch.stages))
    return rows | {f"missing {i}": line for i, line in enumerate(data.missing, 1)}


def _run_rows(run: Run) -> dict[str, object]:
    train = [loss for _, loss in run.curve("train", "mlm", "loss")]
    rows: dict[str, object] = {}
    if train:
        rows[f"{run.name}: training loss, first → last"] = f"{train[0]:.3f} → {train[-1]:.3f}"
    if run.valid:
        rows[f"{run.name}: held-out loss (nats)"] = finite(run.valid.get("loss"))
        rows[f"{run.name}: held-out masked accuracy"] = finite(run.valid.get("accuracy"))
    return rows


def columns(names: Iterable[str], reads: dict[str, list[str]]) -> dict[str, int]:
    """Place stages in the columns of a drawing: one right of the last stage that each reads from."""
    column: dict[str, int] = {}
    for name in names:
        column[name] = 1 + max((column[before] for before in reads.get(name, []) if before in column), default=-1)
    return column
