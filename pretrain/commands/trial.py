"""`biomlm pretrain trial`: a model and shards → the micro-batch that trains fastest, and how fast.

Micro-batches of 1, 2, 4 … sequences of the longest kind are trained on until one does not fit or gains nothing; nothing is updated.
"""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from biomlm.convert.load import Loaded, load_model
from biomlm.core import manifest
from biomlm.core.errors import ConfigError
from biomlm.core.files import read_json, refuse_target, stage, write_json
from biomlm.core.fleet import Fleet, find
from biomlm.core.summary import summary
from biomlm.model.device import choose
from biomlm.model.encoder import parameter_count
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.batches import Batch, Batches
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.pretrain.objectives.config import MlmConfig, ObjectiveConfig
from biomlm.pretrain.planning.config import TrialConfig
from biomlm.pretrain.planning.estimate import largest_micro_batch, need, rows_of
from biomlm.pretrain.training.engine import make_engine
from biomlm.pretrain.training.initial_model import require_positions, require_same_vocabulary
from biomlm.pretrain.training.run_folder import RESULT
from biomlm.training.distributed.engine import Engine
from biomlm.training.distributed.process_group import RankInfo, World
from biomlm.training.objective import LossDenominators
from biomlm.training.out_of_memory import is_out_of_memory

STAGE = "pretrain trial"
GAIN = 1.03  # times the speed of the size before: less is not worth the memory
CPU_SHARE = 0.5  # of the memory that is free: on a CPU nothing says in time that it runs out


@dataclass(frozen=True)
class Attempt:
    """A size of micro-batches that was tried.

    Args:
        tokens: Of the micro-batch, on average.
        tokens_per_second: Forward and backward pass.
    """

    tokens: int
    tokens_per_second: float


def trial(config: TrialConfig) -> None:
    """Write what was found.

    Raises:
        ConfigError: Not even one sequence fits into the memory.
        MismatchError: The model has another vocabulary than the shards, or too few positions.
    """
    out = Path(config.out)
    refuse_target(out, [config.init, config.shards], option="--out", ours=stage)
    fleet = find(config.fleet) if config.fleet else None
    reader, loaded = Shards([config.shards], "train"), load_model(config.init)
    require_same_vocabulary(loaded.tokenizer_dir, loaded.config.vocab_size, config.init, reader)
    record = manifest.begin(out, STAGE, config, {"shards": reader.fingerprint, "init": loaded.fingerprint})
    if record.status != "done":
        settings = _settings(config, loaded)
        planned = fleet is not None and not torch.cuda.is_available()
        figures = _planned(settings, loaded, fleet) if planned and fleet else _measured(settings, loaded, reader, fleet)
        shape = {
            "shape": loaded.config.shape,
            "rotary": loaded.config.rotary,
            "has_head": loaded.has_head,
            "max_length": settings.batch.max_length,
        }
        write_json(out / RESULT, {"parameters": parameter_count(loaded.model), **shape, **figures})
        record.finish(out, [out / RESULT], {})
    rows: dict[str, Any] = read_json(out / RESULT)
    tried = ", ".join(f"{a['tokens']:,}: {a['tokens_per_second']:,.0f}" for a in rows.pop("tried"))
    summary(f"biomlm {STAGE} → {out}", {**rows, **({"tokens: tokens a second": tried} if tried else {})})


def _settings(config: TrialConfig, loaded: Loaded) -> PretrainConfig:
    """Say as a training's configuration what is tried; the sizes of `batch` are the smallest."""
    length = config.max_length or loaded.config.max_positions
    require_positions(loaded.config.max_positions, config.init, length)
    if config.largest < length:
        problem = f"largest is {config.largest} tokens, and one sequence has up to {length}"
        raise ConfigError(problem, remedy="Raise --largest, or lower --max_length.")
    return PretrainConfig(
        shards=config.shards,
        out=config.out,
        init=config.init,
        mlm=MlmConfig(mask_rate=config.mask_rate),
        batch=BatchConfig(tokens=length, max_length=length, accumulation=config.largest // length),
        precision=config.precision,
        compute=config.compute,
    )


def _sizes(settings: PretrainConfig) -> Iterator[int]:
    """Yield the sizes to try, each twice the one before."""
    tokens = length = settings.batch.max_length
    while tokens <= length * settings.batch.accumulation:
        yield tokens
        tokens *= 2


def _planned(settings: PretrainConfig, loaded: Loaded, fleet: Fleet) -> dict[str, Any]:
    """Say what the plan of a fleet gives (`pretrain.planning.estimate`)."""
    half, recompute = settings.precision != "fp32", settings.compute.recompute
    how: dict[str, Any] = {"half": half, "recompute": recompute, "mask_rate": settings.mlm.mask_rate}
    how["padded"] = fleet.options.get("precision") == "fp16"
    most = largest_micro_batch(loaded.config, fleet, 0, **how)
    fitting = [tokens for tokens in _sizes(settings) if tokens <= most]
    if not fitting:
        raise ConfigError(
            f"a sequence of {settings.batch.max_length} tokens does not fit on a {fleet.gpu} of {fleet.memory_gb:g} GB",
            remedy="Give --compute.recompute, a smaller --max_length, or another --fleet.",
        )
    sizes = BatchConfig(fitting[-1], fleet.size, settings.batch.max_length)
    planned = PretrainConfig(shards=settings.shards, out=settings.out, mlm=settings.mlm, batch=sizes)
    speed = float(str(rows_of(planned, loaded.config, fleet)["tokens a second"]))
    return {
        "device": f"{fleet.size} × {fleet.gpu} (planned)",
        "precision": settings.precision,
        "processes": fleet.size,
        "micro_batch": fitting[-1],
        "tokens_per_second": speed,
        "tried": [],
    }


def _measured(settings: PretrainConfig, loaded: Loaded, reader: Shards, fleet: Fleet | None) -> dict[str, Any]:
    """Train on micro-batches of growing size on this machine's first GPU, or its CPU."""
    model, objective = loaded.model.train(), PretrainObjective(ObjectiveConfig(), loaded.config)
    engine, _ = make_engine(settings, model, objective, World(RankInfo()), device=choose(settings.precision))
    attempts: list[Attempt] = []
    half = engine.device.precision != "fp32"
    for tokens in _sizes(settings):
        if engine.device.torch.type == "cpu" and attempts and not _fits_on_cpu(settings, loaded, tokens, half):
            break
        batches = Batches(reader, settings.mlm, BatchConfig(tokens, 1, settings.batch.max_length), settings.seed)
        batch = batches.micro_batch(0, 0)
        speed = None if batch is None else _speed(engine, batch, warm=bool(attempts))
        if speed is None:
            break
        attempts.append(Attempt(tokens, speed))
        print(f"biomlm {STAGE}: {tokens:,} tokens a micro-batch, {speed:,.0f} tokens a second", file=sys.stderr)
        gained = len(attempts) < 2 or speed >= GAIN * attempts[-2].tokens_per_second
        if not gained or batches.epochs.tokens_per_pass < 2 * tokens:
            break
    if not attempts:
        raise ConfigError(
            f"not even one sequence of {settings.batch.max_length} tokens fits into the memory",
            remedy="Give --compute.recompute or a smaller --max_length.",
        )
    best = max(attempts, key=lambda attempt: attempt.tokens_per_second)
    chosen = next(attempt for attempt in attempts if GAIN * attempt.tokens_per_second >= best.tokens_per_second)
    processes = fleet.size if fleet else 1
    return {
        "device": str(engine.device.torch),
        "precision": engine.device.precision,
        "processes": processes,
        "micro_batch": chosen.tokens,
        "tokens_per_second": processes * chosen.tokens_per_second,
        "tried": [asdict(attempt) for attempt in attempts],
    }


def _fits_on_cpu(settings: PretrainConfig, loaded: Loaded, tokens: int, half: bool) -> bool:
    """Whether the plan's memory for such a micro-batch is there."""
    how: dict[str, Any] = {"half": half, "recompute": settings.compute.recompute, "mask_rate": settings.mlm.mask_rate}
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return need(loaded.config, tokens, 1, **how).total(0) <= CPU_SHARE * free / 1e9


def _speed(engine: Engine, batch: Batch, *, warm: bool) -> float | None:
    """Measure the tokens a second of one micro-batch beside the optimiser's state; None if it does not fit."""
    on_device = batch.to(engine.device.torch)
    try:
        moments = torch.empty(2 * engine.parameters, device=engine.device.torch)
        if not warm or engine.device.torch.type == "cuda":
            _pass(engine, on_device)
        start = time.perf_counter()
        _pass(engine, on_device)
        seconds = time.perf_counter() - start
        del moments
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        engine.zero_grad()
    return len(batch.packed.input_ids_t) / seconds


def _pass(engine: Engine, batch: Batch) -> None:
    engine.backward(batch, LossDenominators.of([batch]), 1.0, True)
    if engine.device.torch.type == "cuda":
        torch.cuda.synchronize()
