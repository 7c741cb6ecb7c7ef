"""`biomlm finetune`: model + task → scores, predictions, model."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from biomlm.convert.load import Loaded, load_model
from biomlm.core import checkpoint, manifest
from biomlm.core import config as configuration
from biomlm.core.errors import ConfigError
from biomlm.core.files import read_json, refuse_target, stage, write_json
from biomlm.core.manifest import Manifest
from biomlm.core.summary import summary
from biomlm.finetune.config import FinetuneConfig
from biomlm.finetune.data import dataset
from biomlm.finetune.data.dataset import DataSet
from biomlm.finetune.tasks import build
from biomlm.finetune.tasks.base import Task
from biomlm.finetune.training import checkpoint as saved_model
from biomlm.finetune.training import grid_search, protocol
from biomlm.finetune.training.protocol import Folds, SealedTest
from biomlm.model.compute import kernels_of
from biomlm.training import resolved
from biomlm.training.distributed.process_group import World, join
from biomlm.training.resolved import device_of
from biomlm.training.trainer import deterministic

STAGE = "finetune"
SCORES = "scores.json"
IN_DEV = "also in dev"  # in a row of its own, if there are any
SIZES = ("records", "words", "entities")  # come first in a fold's row


def run(config: FinetuneConfig) -> None:
    """Train and score every seed, write `scores.json` and the model of the seed that dev likes best.

    On several ranks each reads all and computes its part of every step and evaluation; rank 0 alone writes.

    Raises:
        UserError: The model has no tokenizer, the data are malformed, or the run folder is another's.
    """
    deterministic()
    out, world = Path(config.out), join(config.timeout)
    refuse_target(out, [config.model, config.data, config.groups], option="--out", ours=stage)
    loaded = load_model(config.model)
    data = dataset.read(config)
    shared = dataset.count_shared(data, config.max_shared)
    task = build.make_task(config, loaded, data.folds["train"], data.unseen)
    inputs = {"model": loaded.sha256, protocol.READ: loaded.fingerprint, **data.hashes()}
    record = Manifest(**world.on_main(lambda: asdict(_begin(config, inputs, world.size))))
    if record.status != "done":
        counts = {fold: task.counts(records) for fold, records in data.folds.items()}
        for fold, numbers in shared.items():
            counts[fold] |= numbers
        for fold, notes in data.notes.items():
            counts[fold] |= notes
        _run_seeds(config, world, loaded, task, data, counts, record)
    if world.is_main:
        show(out)
    world.destroy()


def _begin(config: FinetuneConfig, inputs: dict[str, str], processes: int) -> Manifest:
    """Begin the run folder, or go on in it.

    Raises:
        ConfigError: Some processes would have nothing to compute.
        MismatchError: The folder is another run's, or is not what the finished one wrote.
    """
    if config.batch.accumulation < processes:
        problem = f"batch.accumulation is {config.batch.accumulation} and there are {processes} processes"
        raise ConfigError(
            f"{problem}: {processes - config.batch.accumulation} would have nothing to compute",
            remedy=f"Give --batch.accumulation {processes} or a multiple, or start fewer processes.",
        )
    out = Path(config.out)
    record = manifest.begin(out, STAGE, config, inputs, override=config.override, unrecorded=[protocol.READ])
    if record.status != "done":
        configuration.save(config, out / "config.yaml")
        protocol.clear_if_changed(out, config, inputs)
    return record


def _run_seeds(
    config: FinetuneConfig,
    world: World,
    loaded: Loaded,
    task: Task[Any, Any],
    data: DataSet,
    counts: dict[str, dict[str, int]],
    record: Manifest,
) -> None:
    out, device = Path(config.out), device_of(config.out, config.precision, world)
    resolved.keep(out, record, world, device=device, kernels=kernels_of(loaded.model.encoder, device))
    folds = Folds(data.folds["train"], data.folds["dev"], SealedTest(data.folds["test"]))
    config, points = grid_search.search(
        out,
        task,
        lambda: load_model(config.model),
        train=folds.train,
        dev=folds.dev,
        config=config,
        device=device,
        world=world,
    )
    seeds = range(config.seed, config.seed + config.seeds)
    results: list[dict[str, Any]] = []
    for seed in seeds:
        # the model is trained in place: every seed starts from the file
        again = load_model(config.model)
        results.append(protocol.run_seed(out, task, again, folds, config=config, seed=seed, device=device, world=world))
    if not world.is_main:
        return
    best = protocol.best_seed(results, task.scorer.metric)
    state = checkpoint.load_latest(protocol.folder_of(out, best))
    if state is not None:  # else the best seed was done when fewer seeds were asked for, and its model is in place
        facts = {**build.facts(task, config.task), "seed": best}
        saved_model.write(out, loaded, state.tensors["best"], task.labels, facts=facts)
    scores = {
        "task": config.task,
        **protocol.combine_seeds(out, task, results),
        "model_seed": best,
        "words": task.word_rule,
        "counts": counts,
        "precision": device.precision,
        "lr": config.optim.lr,
        "batch_size": config.batch.size,
        "grid": points,
    }
    write_json(out / SCORES, scores)
    predictions = [protocol.folder_of(out, seed) / protocol.PREDICTIONS for seed in seeds]
    record.finish(out, [out / SCORES, *saved_model.files(out), *predictions], counts)
    protocol.drop_checkpoints(out, seeds)


def show(out: Path) -> None:
    """Print a finished run's summary."""
    scores: dict[str, Any] = read_json(out / SCORES)
    metric = scores["metric"]
    rows: dict[str, object] = {}
    for fold, counts in scores["counts"].items():
        names = [
            *(name for name in SIZES if name in counts),
            *(name for name in counts if name not in (*SIZES, IN_DEV)),
        ]
        rows[fold] = ", ".join(f"{counts[name]:,} {name}" for name in names)
        if counts.get(IN_DEV):
            rows[f"{fold} {IN_DEV}"] = counts[IN_DEV]
    for fold in ("dev", "test"):
        score = scores[fold]
        rows |= {f"{fold} {name}": score[name] for name in ("precision", "recall") if name in score}
        deviation = score[f"{metric}_sd"]
        rows[f"{fold} {metric}"] = f"{score[metric]:.4f}" + (f" ± {deviation:.4f}" if deviation is not None else "")
    low, high = scores["test"][f"{metric}_interval"]
    rows[f"test {metric}, 95% interval"] = f"{low:.4f} – {high:.4f}"
    if scores.get("words"):
        rows["words"] = scores["words"]
    if scores["grid"]:
        rows["chosen of the grid by dev"] = f"lr {scores['lr']:g}, batch {scores['batch_size']}"
    rows["seeds (epoch chosen by dev)"] = ", ".join(f"{run['seed']} ({run['epoch']})" for run in scores["runs"])
    rows["training time"] = f"{sum(run['seconds'] for run in scores['runs']):.0f} s"
    summary(f"biomlm finetune → {out}", rows)
