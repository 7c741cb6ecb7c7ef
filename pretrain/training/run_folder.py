"""What every training verb does around the loop: shards, run folder, weights to start from, the result and the summary."""

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from biomlm.convert.load import load_model
from biomlm.core import checkpoint, manifest
from biomlm.core import config as configuration
from biomlm.core.errors import ConfigError, DataError, MismatchError
from biomlm.core.files import read_json, sha256, write_json
from biomlm.core.manifest import Manifest
from biomlm.core.summary import summary
from biomlm.model.device import choose
from biomlm.model.encoder import MaskedLM, parameter_count
from biomlm.model.flops import peak
from biomlm.pretrain.config import PretrainConfig, accumulations, idle_share
from biomlm.pretrain.data.curriculum import Curriculum, end_of
from biomlm.pretrain.data.dataset import Shards, held_out, require_apart
from biomlm.pretrain.fairseq_engine import run as fairseq_engine
from biomlm.pretrain.fairseq_engine.start import require_one_process
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.pretrain.training.engine import make_engine
from biomlm.pretrain.training.evaluate import EvalResult, Evaluator, HeldOutEvaluation, TermEvaluator
from biomlm.pretrain.training.filled_examples import Examples
from biomlm.tokenizer.formats import folder as tokenizer_folder
from biomlm.training.config import LoopConfig
from biomlm.training.distributed.engine import Engine
from biomlm.training.distributed.process_group import RankInfo, World, join, rank_info
from biomlm.training.objective import Objective
from biomlm.training.resolved import compute_of, device_of, keep
from biomlm.training.result import TrainResult
from biomlm.training.selection import Selection
from biomlm.training.trainer import Trainer, deterministic, newest_usable

RESULT = "result.json"
SEEN = "shards.json"  # size, time of change, inode and SHA-256 of the shards' files
LATER = ("init", "longer", "teachers as read")  # inputs that manifests once lacked


def start(config: PretrainConfig, stage: str, reader: Shards, model: MaskedLM, *, inputs: dict[str, str]) -> Manifest:
    """Begin or continue the run folder, once all that can be refused has been; return its manifest.

    `inputs` are those beside the shards; only those of models may be missing in a folder that an earlier version began.

    On several ranks rank 0 does this and broadcasts the manifest to the others.
    """
    if config.engine == "fairseq":
        require_one_process(os.environ)
    world = join(config.timeout)

    def begin() -> dict[str, Any]:
        _require_work(config, world.size)
        return asdict(_start(config, stage, reader, model, inputs))

    return Manifest(**world.on_main(begin))


def _start(config: PretrainConfig, stage: str, reader: Shards, model: MaskedLM, inputs: dict[str, str]) -> Manifest:
    run = Path(config.out)
    own = run / "tokenizer"
    if config.override and own.exists() and tokenizer_folder.load(own).fingerprint != reader.tokenizer.fingerprint:
        raise MismatchError(
            f"the run's weights are of this tokenizer, the shards in {reader.folder} of another",
            file=own,
            remedy="Give another --out; --init and --init_vocabulary move a model to another vocabulary.",
        )
    require_apart(reader, held_out(config.folders))
    every = {"shards": reader.fingerprint, **inputs}
    record = manifest.begin(run, stage, config, every, override=config.override, unrecorded=LATER)
    if record.status == "done":
        return record
    _require_same_shards(run, config)
    configuration.save(config, run / "config.yaml")
    model.config.save(run)
    if not own.exists():
        tokenizer_folder.copy(Path(config.folders[0]) / "tokenizer", own)
    return record


def _require_same_shards(run: Path, config: PretrainConfig) -> None:
    """Refuse shards whose files are others than when the run began, of which their manifest knows nothing.

    Files are read through once; when the run goes on, those again whose size, time of change or inode is another.

    Raises:
        MismatchError: A file was changed, or is gone, or is not what the shards' own manifest says.
    """
    first = not (run / SEEN).exists()
    before: dict[str, Any] = {} if first else dict(read_json(run / SEEN))
    now: dict[str, list[Any] | None] = {}
    for number, folder in enumerate(config.folders):
        for name, digits in manifest.read_manifest(folder, "tokenizer encode").outputs.items():
            key, path = f"{number}/{name}", Path(folder) / name
            recorded = before.get(key)
            now[key] = _seen(path, recorded)
            if not first and _digest(now[key]) != _digest(recorded):
                problem = "its content or order is another than when this run began"
                _refuse_unless(config.override, path, problem, "Put it back as it was, or give another --out")
            elif first and now[key] is not None and _digest(now[key]) != digits:
                _refuse_unless(
                    config.override, path, "it is not what the manifest of the shards says", "Make the shards again"
                )
    write_json(run / SEEN, now)


def _refuse_unless(override: bool, path: Path, problem: str, remedy: str) -> None:
    if not override:
        raise MismatchError(problem, file=path, remedy=f"{remedy}, or say --override to read it as it is.")
    print(f"{path}: {problem}; --override goes on all the same", file=sys.stderr)


def _seen(path: Path, recorded: Any) -> list[Any] | None:
    """Return size, time of change, inode and SHA-256 of a file, the last as recorded if the others are the same; None if it is gone."""
    if not path.is_file():
        return None
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    return recorded if recorded is not None and recorded[:-1] == stamp else [*stamp, sha256(path)]


def _digest(seen: Any) -> str | None:
    return None if seen is None else seen[-1]


def _require_work(config: PretrainConfig, processes: int) -> None:
    """Refuse more processes than a step has micro-batches, and say what share of their time goes by without work.

    Raises:
        ConfigError: Some processes would compute nothing that counts in any step of a stage.
    """
    for of, accumulation in accumulations(config):
        idle = idle_share(accumulation, processes)
        if accumulation < processes:
            raise ConfigError(
                f"{of} is {accumulation} and there are {processes} processes: {processes - accumulation} would have nothing to compute",
                remedy=f"Give --batch.accumulation {processes} or a multiple, with as many fewer --batch.tokens, or start fewer processes.",
            )
        if idle:
            print(
                f"{accumulation} micro-batches ({of}) do not come out even on {processes} processes: {idle:.0%} of their time goes by "
                "without work",
                file=sys.stderr,
            )


def train(
    config: PretrainConfig,
    record: Manifest,
    reader: Shards,
    model: MaskedLM,
    *,
    objective: Objective[Any, Any],
    teacher: MaskedLM | None = None,
) -> None:
    """Run the loop to its end and write `result.json`, the finished manifest and the summary.

    Args:
        config: Of the run.
        record: The run's manifest, from `start`.
        reader: The training split.
        model: Initial weights.
        objective: What is minimised.
        teacher: Evaluated on the same held-out tokens and reported beside the model.
    """
    _train(config, record, reader, model, objective, teacher)
    join(config.timeout).destroy()


def _train(
    config: PretrainConfig,
    record: Manifest,
    reader: Shards,
    model: MaskedLM,
    objective: Objective[Any, Any],
    teacher: MaskedLM | None,
) -> None:
    deterministic()
    run = Path(config.out)
    if config.engine == "fairseq":
        _take_over(config, record, reader, model, objective)
        return
    world = join(config.timeout)
    device = device_of(run, config.precision, world)
    config = replace(config, compute=compute_of(config.compute, record))
    engine, kernels = make_engine(config, model, objective, world, device=device)
    keep(run, record, world, device=device, kernels=kernels, deterministic=config.compute.deterministic)
    segments = model.config.type_vocab_size > 1
    batches = Curriculum(reader, config, segments)
    evaluator = _evaluator(config, objective, segments, world)
    evaluation = None if evaluator is None else _evaluation(config, evaluator, batches)
    trainer = Trainer(
        run,
        engine,
        batches,
        evaluation=evaluation,
        selection=Selection(),
        config=_loop(config),
        what=f"biomlm {record.stage}",
        peak=peak(device) * world.size,
    )
    if not trainer.resume() and config.longer is not None:
        _take_up(Path(config.longer), engine, batches)
    trained = trainer.train()
    compared = None if teacher is None or evaluator is None else evaluator(teacher, device)
    if world.is_main:
        _finish(config, record, engine, batches, evaluation, trained, compared)


def _loop(config: PretrainConfig) -> LoopConfig:
    """Say what the loop needs to know."""
    guard = replace(config.guard, spike=0.0) if config.engine == "deepspeed" else config.guard
    return LoopConfig(
        steps=config.steps,
        seed=config.seed,
        guard=guard,
        log_every=config.log_every,
        eval_every=config.eval_every,
        save_every=config.save_every,
        keep=config.keep,
        keep_every=config.keep_every,
        timeout=config.timeout,
    )


def _take_up(run: Path, engine: Engine, batches: Curriculum) -> None:
    """Take up another run's weights and optimizer state, and the batches that follow its last one, to train it longer.

    Raises:
        DataError: It has no whole checkpoint, or one without optimizer state or a place in the data.
    """
    step = newest_usable(run, engine.world)
    if step is None:
        raise DataError("this run has no whole checkpoint", file=run, remedy="Give a run to --longer that has one.")
    last = checkpoint.load(path := checkpoint.path_of(run, step), verify=False)
    if not {"engine", "guard"} <= last.state.keys():
        raise DataError(
            "it holds a model, and no moments or place in the data to train on from",
            file=path,
            remedy="Start a new run from the model by --init.",
        )
    engine.take_over(last.tensors, last.state["engine"], last.step)
    batches.go_on(0, end_of(run, last))


def _take_over(
    config: PretrainConfig, record: Manifest, reader: Shards, model: MaskedLM, objective: Objective[Any, Any]
) -> None:
    """Have fairseq train, and evaluate what it leaves as any model of ours."""
    if record.stage != "pretrain":
        raise ConfigError("fairseq knows masked language modelling only", remedy="Give another --engine.")
    world = join(config.timeout)
    seconds = fairseq_engine.train(config, model, f"biomlm {record.stage} (fairseq)", world)
    world.on_main(lambda: _finish_fairseq(config, record, reader, objective, seconds))


def _finish_fairseq(
    config: PretrainConfig, record: Manifest, reader: Shards, objective: Objective[Any, Any], seconds: float
) -> None:
    """Evaluate the model that fairseq has trained, on this machine alone, and end the run."""
    run, device = Path(config.out), choose("fp32")
    path = checkpoint.path_of(run, config.steps)
    tokens = int(checkpoint.load(path).state["tokens"])
    model = load_model(path).model
    evaluator = _evaluator(config, objective, False, World(RankInfo()))
    valid = None if evaluator is None else evaluator(model.to(device.torch), device)
    result = {
        "step": config.steps,
        "tokens": tokens,
        "epochs": tokens / Curriculum(reader, config, False).tokens_per_epoch,
        "epochs_by_source": {},
        "parameters": parameter_count(model),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "mfu": None,
        "data_wait": None,
        "engine": config.engine,
        "device": str(device.torch),
        "precision": config.precision,
        "valid": None if valid is None else asdict(valid),
        "unigram_entropy": None if evaluator is None else evaluator.shards.unigram_entropy,
    }
    write_json(run / RESULT, result)
    record.finish(run, [path / "model.safetensors", run / "encoder.json"], {"steps": config.steps, "tokens": tokens})
    show(record.stage, run)


def _finish(
    config: PretrainConfig,
    record: Manifest,
    engine: Engine,
    batches: Curriculum,
    evaluation: HeldOutEvaluation | None,
    trained: TrainResult,
    teacher: EvalResult | None,
) -> None:
    run, device = Path(config.out), engine.device
    passes = trained.tokens / batches.tokens_per_epoch
    valid = None if evaluation is None else evaluation.result
    result = {
        "step": trained.step,
        "tokens": trained.tokens,
        "epochs": passes,
        "epochs_by_source": batches.passes(trained.step),
        "parameters": engine.parameters,
        "seconds": trained.seconds,
        "tokens_per_second": trained.tokens_per_second,
        "mfu": trained.mfu,
        "data_wait": trained.data_wait,
        "save_wait": trained.save_wait,
        "engine": config.engine,
        "processes": engine.world.size,
        "guard": trained.guard,
        "device": str(device.torch),
        "gpu": torch.cuda.get_device_name(device.torch) if device.torch.type == "cuda" else None,
        "precision": device.precision,
        "valid": None if valid is None else asdict(valid),
        "unigram_entropy": None if evaluation is None else evaluation.evaluator.shards.unigram_entropy,
    }
    if teacher is not None:
        result["teacher"] = asdict(teacher)
    write_json(run / RESULT, result)
    weights = checkpoint.path_of(run, trained.step).glob("model*.safetensors")
    updates = engine.updates - engine.updates_before
    counts = {"steps": trained.step, "tokens": trained.tokens, "steps_left_out": trained.step - updates}
    record.finish(run, [*weights, run / "encoder.json"], counts)
    show(record.stage, run)


def show(stage: str, run: Path) -> None:
    """Print a finished run's summary, on rank 0."""
    if rank_info(os.environ).rank:
        return
    result = read_json(run / RESULT)
    rows = {
        "parameters": result["parameters"],
        "steps": result["step"],
        "tokens": result["tokens"],
        "passes over the shards": result["epochs"],
        **{f"passes over {name}": count for name, count in result["epochs_by_source"].items()},  # type: ignore[attr-defined]
        "tokens per second": round(float(str(result["tokens_per_second"]))),
        "model FLOPs utilisation": result["mfu"],
        "share of time waiting for batches": result["data_wait"],
        "device and precision": f"{result['device']} {result['precision']}",
        **held_out_rows(result),
    }
    summary(f"biomlm {stage} → {run}", {name: value for name, value in rows.items() if value is not None})


def held_out_rows(result: Mapping[str, Any]) -> dict[str, object]:
    """Give the rows of a summary that say how well a model does on held-out text."""
    valid = result["valid"]
    if not isinstance(valid, dict):
        return {}
    rows: dict[str, object] = {
        "held-out loss (nats)": valid["loss"],
        "held-out perplexity": valid["perplexity"],
        "held-out masked accuracy": valid["accuracy"],
    }
    for source, figures in valid["sources"].items():
        rows |= {f"held-out loss, {source}": figures["loss"], f"held-out accuracy, {source}": figures["accuracy"]}
    rows |= {f"held-out {name.replace('_', ' ')}": value for name, value in valid.get("pairs", {}).items()}
    rows["held-out unigram entropy (nats)"] = result["unigram_entropy"]
    return {name: value for name, value in rows.items() if value is not None}


def _evaluator(
    config: PretrainConfig, objective: Objective[Any, Any], segments: bool, world: World
) -> Evaluator | None:
    shards = held_out(config.folders)
    if shards is None:
        return None
    size = (config.eval_mask_rate, config.eval_tokens)
    # The first is the masked-LM loss, which the evaluator computes itself, and by sources.
    others = objective.terms[1:] if isinstance(objective, PretrainObjective) else ()
    pairing = config.objective.pairing
    terms = [TermEvaluator(shards, config.batch, *size, term=t, pairing=pairing, segments=segments) for t in others]
    return Evaluator(shards, config.batch, *size, terms=terms, world=world)


def _evaluation(config: PretrainConfig, evaluator: Evaluator, batches: Curriculum) -> HeldOutEvaluation:
    examples = None
    if config.examples.count:
        examples = partial(Examples(evaluator, config.examples).write, Path(config.out))
    return HeldOutEvaluation(evaluator, bool(config.optim.ema), batches.passes, examples)
