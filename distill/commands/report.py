"""`biomlm distill report`: what a student kept of its teacher, beside the same student alone, as a page and as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from biomlm.convert.load import Loaded
from biomlm.core.errors import DataError
from biomlm.core.files import refuse_target, with_keys, write_json, write_text
from biomlm.core.manifest import read_manifest
from biomlm.core.metrics import read_metrics
from biomlm.core.summary import summary
from biomlm.distill.config import ReportConfig
from biomlm.distill.losses.config import PARTS
from biomlm.distill.reporting.held_out import ALL, ModelResults, compare, layer_similarity
from biomlm.distill.reporting.page import page
from biomlm.distill.teachers.teacher import load
from biomlm.model.device import choose
from biomlm.model.encoder import parameter_count
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import held_out
from biomlm.pretrain.training.evaluate import Evaluator

PAGE, FIGURES = "report.html", "report.json"
TEACHER, STUDENT, ALONE = "teacher", "student", "alone"


def report(config: ReportConfig) -> None:
    """Compare the models, write the page and the figures."""
    refuse_target(config.out, [config.run, config.teacher, config.alone], option="--out", ours=_is_report)
    record = read_manifest(config.run, "distill")
    shards = record.config["shards"]
    reader = held_out([shards] if isinstance(shards, str) else shards)
    if reader is None:
        raise DataError("its shards have no held-out split", file=config.run, remedy="Encode one and train again.")
    teachers = [config.teacher] if config.teacher else record.config["teacher"]
    if not teachers:
        raise DataError(
            "the run learnt from a cache, and its teacher is not named", file=config.run, remedy="Name it by --teacher."
        )
    teacher_paths = (
        {TEACHER: teachers[0]} if len(teachers) == 1 else {f"{TEACHER} {i}": t for i, t in enumerate(teachers, 1)}
    )
    ensemble = list(teacher_paths) if len(teacher_paths) > 1 else []
    paths = {**teacher_paths, STUDENT: config.run} | ({ALONE: config.alone} if config.alone else {})
    sizes = BatchConfig(**record.config["batch"])
    loaded = dict(zip(paths, load(list(paths.values()), reader, sizes.max_length, False), strict=True))
    evaluator = Evaluator(reader, sizes, config.mask_rate, config.tokens)
    models = {name: one.model for name, one in loaded.items()}
    results = compare(models, evaluator, choose(config.precision), TEACHER, ensemble=ensemble)
    train = [record for record in read_metrics(config.run) if record["split"] == "train"]
    figures: dict[str, Any] = {
        "models": {
            name: _figures([loaded[one] for one in ([name] if name in loaded else ensemble)], result)
            for name, result in results.items()
        },
        "similarity": {name: layer_similarity(results, STUDENT, name) for name in ensemble}
        or layer_similarity(results, STUDENT, TEACHER),
        "parts": _parts(train),
    }
    out = Path(config.out)
    write_json(out / FIGURES, figures)
    write_text(out / PAGE, page(f"Distillation: {Path(config.run).name}", figures, train, TEACHER))
    rows = {
        f"{name}: {what}": value
        for name, model in figures["models"].items()
        for what, value in model["sources"][ALL].items()
        if what != "masked" and value is not None
    }
    summary(f"biomlm distill report → {out / PAGE}", rows)


def _is_report(folder: Path) -> bool:
    """Whether a folder is empty or holds an earlier report and nothing else."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    earlier = with_keys({"models", "similarity", "parts"})
    return not names or (names <= {PAGE, FIGURES} and earlier(folder / FIGURES))


def _figures(loaded: Sequence[Loaded], results: ModelResults) -> dict[str, Any]:
    """Collect the figures of one model, or of several that predict together."""
    return {
        "parameters": sum(parameter_count(one.model) for one in loaded),
        "tokens": results.tokens,
        "tokens_per_second": results.tokens / max(results.seconds, 1e-9),
        "has_head": all(one.has_head for one in loaded),
        "sources": {source: sums.means() for source, sums in sorted(results.sources.items())},
    }


def _parts(train: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Find the first and last recorded value of each part of the training loss."""
    values = {name: [record[name] for record in train if name in record] for name in PARTS}
    return {name: {"first": recorded[0], "last": recorded[-1]} for name, recorded in values.items() if recorded}
