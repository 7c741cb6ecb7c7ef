"""`biolm finetune`: model + task → scores, predictions, model."""

from pathlib import Path
from typing import Any

import torch

from biolm.convert.load import Loaded, load_model
from biolm.core import checkpoint, manifest
from biolm.core import config as configuration
from biolm.core.cli import Verb
from biolm.core.errors import ConfigError, DataError, MismatchError
from biolm.core.files import read_json, sha256, write_json
from biolm.core.summary import summary
from biolm.finetune import folds as data
from biolm.finetune import protocol, saved
from biolm.finetune.config import FinetuneConfig
from biolm.finetune.ner import Ner, labels_of
from biolm.finetune.protocol import Folds, Sealed
from biolm.finetune.records import Tagged
from biolm.tokenizer import folder as tokenizer_folder
from biolm.tokenizer.folder import Tokenizer

STAGE = "finetune"
SCORES = "scores.json"
LONGEST = 512


def run(config: FinetuneConfig) -> None:
    """Train and score every seed, write `scores.json` and the model of the seed that dev likes best.

    Raises:
        UserError: The model has no tokenizer, the data are malformed, or the run folder is another's.
    """
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    out = Path(config.out)
    loaded = load_model(config.model)
    files = data.find(config.data)
    folds = data.read_tagged(files, repair=config.repair_tags)
    shared = data.shared(folds, files, config.max_shared)
    task = make_task(config, loaded, folds["train"])
    inputs = {"model": loaded.sha256, **{fold: sha256(path) for fold, path in files.items()}}
    record = manifest.begin(out, STAGE, config, inputs, override=config.override)
    if record.status != "done":
        configuration.save(config, out / "config.yaml")
        _run_seeds(config, out, loaded, task, folds, shared, record)
    show(out)


def make_task(config: FinetuneConfig, loaded: Loaded, train: list[Tagged]) -> Ner:
    """The task on this model.

    Raises:
        ConfigError: The overlap leaves nothing of a window.
        MismatchError: Windows longer than the model reads.
    """
    length = config.batch.max_length or min(LONGEST, loaded.config.max_positions)
    if length > loaded.config.max_positions:
        problem = f"the model reads {loaded.config.max_positions} tokens, a window has {length}"
        raise MismatchError(problem, file=config.model, remedy="Lower --batch.max_length.")
    overlap = length // 4 if config.batch.overlap is None else config.batch.overlap
    if overlap >= length - 2:
        problem = f"windows of {length} tokens cannot share {overlap}"
        raise ConfigError(problem, remedy="Raise --batch.max_length or lower --batch.overlap.")
    return Ner(load_tokenizer(loaded), labels_of(train), length, overlap)


def load_tokenizer(loaded: Loaded) -> Tokenizer:
    """The tokenizer beside a model.

    Raises:
        DataError: There is none.
    """
    if loaded.tokenizer_dir is None:
        raise DataError(
            "this model has no tokenizer", file=loaded.source, remedy="Put its tokenizer's files beside it."
        )
    return tokenizer_folder.load(loaded.tokenizer_dir)


def _run_seeds(
    config: FinetuneConfig,
    out: Path,
    loaded: Loaded,
    task: Ner,
    folds: dict[str, list[Tagged]],
    shared: dict[str, int],
    record: manifest.Manifest,
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sealed = Folds(folds["train"], folds["dev"], Sealed(folds["test"]))
    seeds = range(config.seed, config.seed + config.seeds)
    results: list[dict[str, Any]] = []
    for seed in seeds:
        # the model is trained in place: every seed starts from the file
        results.append(protocol.run_seed(out, task, load_model(config.model).model, sealed, config, seed, device))
    counts = {fold: task.counts(records) for fold, records in folds.items()}
    for fold, number in shared.items():
        counts[fold]["texts also in train"] = number
    best = protocol.best_seed(results, task.scorer.metric)
    state = checkpoint.load_latest(protocol.folder_of(out, best))
    assert state is not None
    facts = {"task": task.name, "max_length": task.max_length, "overlap": task.overlap, "seed": best}
    written = saved.write(out, loaded, state.tensors["best"], task.labels, facts)
    write_json(out / SCORES, {**protocol.combined(out, task, results), "model_seed": best, "counts": counts})
    predictions = [protocol.folder_of(out, seed) / protocol.PREDICTIONS for seed in seeds]
    record.finish(out, [out / SCORES, *written, *predictions], counts)
    protocol.drop_checkpoints(out, seeds)


def show(out: Path) -> None:
    """Print a finished run's summary."""
    scores: dict[str, Any] = read_json(out / SCORES)
    metric = scores["metric"]
    rows: dict[str, object] = {}
    for fold, counts in scores["counts"].items():
        rows[fold] = ", ".join(f"{number:,} {name}" for name, number in counts.items())
    for fold in ("dev", "test"):
        score = scores[fold]
        rows |= {f"{fold} {name}": score[name] for name in ("precision", "recall") if name in score}
        deviation = score[f"{metric}_sd"]
        rows[f"{fold} {metric}"] = f"{score[metric]:.4f}" + (f" ± {deviation:.4f}" if deviation is not None else "")
    low, high = scores["test"][f"{metric}_interval"]
    rows[f"test {metric}, 95% interval"] = f"{low:.4f} – {high:.4f}"
    rows["seeds (epoch chosen by dev)"] = ", ".join(f"{run['seed']} ({run['epoch']})" for run in scores["runs"])
    rows["training time"] = f"{sum(run['seconds'] for run in scores['runs']):.0f} s"
    summary(f"biolm finetune → {out}", rows)


VERB = Verb(
    config=FinetuneConfig,
    run=run,
    example="biolm finetune --model runs/demo/student --task ner --data NCBI-disease-IOB --epochs 3 --out runs/ncbi",
)
