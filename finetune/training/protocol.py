"""Who may see what, and when: dev selects, test is scored once for every seed, and several seeds give mean and deviation.

The test fold is sealed: it can be had only in exchange for a `BestEpoch`, which only the development fold makes, and only once for a
seed. A seed whose `result.json` stands is done and is not scored again.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Generic

import numpy as np
import orjson

from biomlm.convert.load import Loaded
from biomlm.core.files import atomic_file, read_if_done, read_json, write_json
from biomlm.core.manifest import config_hash, digest
from biomlm.finetune.config import FinetuneConfig
from biomlm.finetune.metrics.bootstrap import interval, mean_interval, resampled
from biomlm.finetune.metrics.scorer import F64
from biomlm.finetune.tasks.base import G, R, Task
from biomlm.finetune.training.fit import build_model, fit
from biomlm.finetune.training.grid_search import FOLDER as GRID
from biomlm.finetune.training.inference import outputs
from biomlm.finetune.training.selection import BestEpoch, score_rows
from biomlm.model.device import Device
from biomlm.training.distributed.process_group import World

RESULT = "result.json"
ROWS = "test_rows.npy"
STAMP = "stamp.json"
READ = "model as read"  # a manifest's input: all of the model's files, its shape and its tokenizer
PREDICTIONS = "predictions.jsonl"


class SealedTest(Generic[R]):
    """The test fold, given out once a seed to what the development fold selected."""

    def __init__(self, records: Sequence[R]):
        self._records = records
        self._opened: set[int] = set()

    def open(self, seed: int, selected: BestEpoch) -> Sequence[R]:
        """Give out the records, for the one scoring of this seed's best epoch."""
        assert isinstance(selected, BestEpoch), "only a selected model is scored on the test fold"
        assert seed not in self._opened, "the test fold was already scored for this seed"
        self._opened.add(seed)
        return self._records


@dataclass(frozen=True)
class Folds(Generic[R]):
    """A data set: what is trained on, what selects, and what is scored once."""

    train: Sequence[R]
    dev: Sequence[R]
    test: SealedTest[R]


def folder_of(out: Path, seed: int) -> Path:
    """Return a seed's folder."""
    return out / f"seed_{seed}"


def run_seed(
    out: Path,
    task: Task[R, G],
    loaded: Loaded,
    folds: Folds[R],
    *,
    config: FinetuneConfig,
    seed: int,
    device: Device,
    world: World,
) -> dict[str, Any]:
    """Train one seed, score what dev selected on the test fold, and write both; the result if that was done before.

    Its folder gets `result.json`, `predictions.jsonl` (test) and `test_rows.npy`, the scorer's counts of every test record.
    """
    folder = folder_of(out, seed)
    result: dict[str, Any] | None = world.on_main(partial(read_if_done, folder / RESULT))
    if result is not None:
        return result
    model = build_model(task, loaded, config, seed)
    best, trained = fit(
        folder,
        task,
        model,
        train=folds.train,
        dev=folds.dev,
        config=config,
        seed=seed,
        device=device,
        world=world,
    )
    model.load_state_dict(best.tensors)
    test = folds.test.open(seed, best)
    rows = outputs(model, task.examples(test), config.batch.tokens, device, world=world)
    predicted = [task.decode(row) for row in rows]
    counts = score_rows(task, test, predicted)
    result = {
        "seed": seed,
        "epoch": best.epoch,
        "steps": trained.step,
        "seconds": sum(entry["seconds"] for entry in best.history),
        "history": best.history,
        "guard": trained.guard,
        "dev": best.history[best.epoch - 1]["dev"],
        "test": {
            **task.scorer.report(counts.sum(0)),
            f"{task.scorer.metric}_interval": interval(task.scorer.value(resampled(counts))),
        },
    }
    if world.is_main:
        write_predictions(folder / PREDICTIONS, task, test, predicted)
        with atomic_file(folder / ROWS) as tmp, tmp.open("wb") as file:
            np.save(file, counts)
        write_json(folder / RESULT, result)
    return result


def clear_if_changed(out: Path, config: FinetuneConfig, inputs: dict[str, str]) -> None:
    """Remove the seeds and the grid of another configuration or other inputs, which `--override` lets pass; more seeds change nothing.

    Without this a seed that was done under the old settings would be reported as one of the new.
    """
    settings = config_hash(replace(config, seeds=1, seed=1))
    stamp = {"stamp": digest([settings, inputs])}
    earlier = {"stamp": digest([settings, {k: v for k, v in inputs.items() if k != READ}])}  # of folders without it
    if (out / STAMP).exists() and read_json(out / STAMP) not in (stamp, earlier):
        for path in [*out.glob("seed_*"), *out.glob(f"{GRID}*")]:
            shutil.rmtree(path)
    write_json(out / STAMP, stamp)


def write_predictions(path: Path, task: Task[R, G], records: Sequence[R], predicted: Sequence[G]) -> None:
    """Write one JSON object a record, in order: id, line, prediction and gold, without text."""
    lines = [
        {
            "id": record.id,
            "line": record.line,
            **task.json_fields(record, guess),
            "gold": task.json_fields(record, task.gold(record)),
        }
        for record, guess in zip(records, predicted, strict=True)
    ]
    with atomic_file(path) as tmp:
        tmp.write_bytes(b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))


def combine_seeds(out: Path, task: Task[R, G], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Combine the results of all seeds: the mean of every score, the main one's deviation and interval, and each seed's own."""
    metric = task.scorer.metric
    rows: list[F64] = [np.load(folder_of(out, result["seed"]) / ROWS) for result in results]
    folds = {}
    for fold in ("dev", "test"):
        values = [result[fold][metric] for result in results]
        folds[fold] = mean([result[fold] for result in results])
        folds[fold][f"{metric}_sd"] = stdev(values) if len(values) > 1 else None
    folds["test"][f"{metric}_interval"] = mean_interval(task.scorer, rows)
    columns = ("seed", "epoch", "steps", "seconds", "dev", "test")
    return {
        "metric": metric,
        "seeds": [result["seed"] for result in results],
        **folds,
        "runs": [{name: result[name] for name in columns} for result in results],
    }


def mean(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Average every number, inside nested objects too; lists (intervals) are left out."""
    means: dict[str, Any] = {}
    for name, first in scores[0].items():
        if isinstance(first, dict):
            means[name] = mean([score[name] for score in scores])
        elif isinstance(first, (int, float)):
            means[name] = fmean(score[name] for score in scores)
    return means


def best_seed(results: Sequence[dict[str, Any]], metric: str) -> int:
    """Return the seed of the best development score; of equal ones the first."""
    return int(max(results, key=lambda result: result["dev"][metric])["seed"])


def drop_checkpoints(out: Path, seeds: Sequence[int]) -> None:
    """Remove what only a resumed run needs."""
    for seed in seeds:
        shutil.rmtree(folder_of(out, seed) / "checkpoints", ignore_errors=True)
