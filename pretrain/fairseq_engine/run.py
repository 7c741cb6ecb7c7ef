"""`--engine fairseq`: the real fairseq trains on our shards in its own environment, and its model becomes a run of ours.

The environment is the one that `biomlm-fairseq-env` makes (docs/fairseq.md). Its checkpoints lie in `RUN/fairseq/`; a run that was
interrupted goes on from the last of them. fairseq reads its own checkpoints with pickle, which torch allows it by a variable that only
this one process gets; so what it is to go on from is read by `convert` first, which executes nothing and refuses what could run code.
"""

import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from biomlm.convert.load import read_source
from biomlm.core import checkpoint
from biomlm.core.checkpoint import Checkpoint
from biomlm.core.config import fairseq_env
from biomlm.core.errors import ConfigError, DataError
from biomlm.core.metrics import MetricsWriter, read_metrics
from biomlm.core.processes.children import dying_with_parent
from biomlm.core.progress import progress
from biomlm.model.device import choose
from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.fairseq_engine.command import call, record
from biomlm.pretrain.fairseq_engine.start import FOLDER, LAST, gpus_of, start_of
from biomlm.training.distributed.process_group import World
from biomlm.training.preemption import PreemptionHandler

TAIL = 12  # lines of its log that an error shows
POLL = 1.0  # seconds between two looks at whether the fairseq of another machine than the first has ended


def executable() -> Path:
    """Find `fairseq-train` of the environment that `BIOMLM_FAIRSEQ_ENV` names, else of the one beside this Python's.

    Raises:
        ConfigError: There is none.
    """
    folder = fairseq_env()
    program = folder / "bin" / "fairseq-train"
    if not program.is_file():
        raise ConfigError(
            "there is no environment with fairseq here",
            file=folder,
            remedy="Make one: biomlm-fairseq-env (docs/fairseq.md).",
        )
    return program


def train(config: PretrainConfig, model: MaskedLM, what: str, world: World) -> float:
    """Run fairseq to the end and take its model over as the run's last checkpoint; the seconds that it took.

    On several machines each runs its own; the first one's fairseq logs and saves.

    Args:
        config: Of the run.
        model: Initial weights, which fairseq takes only where the run starts from a model: else it draws its own.
        what: The verb, for progress and messages.
        world: The machines.

    Raises:
        ConfigError: There is no fairseq, or it cannot do what the configuration says.
        DataError: It ended with an error.
        StoppedError: A signal came.
        UnsafeFileError: The checkpoint to go on from could run code.
    """
    run, gpus = Path(config.out), gpus_of(world)
    precision = choose(config.precision).precision if gpus.here else config.precision.replace("auto", "fp32")
    start = start_of(config, model, world)
    words = [str(executable()), *call(config, model.config, precision, gpus=gpus, start=start)]
    print("+ " + " ".join(words), file=sys.stderr)
    started = time.monotonic()
    if not world.is_main:
        _wait(words, run)
        return time.monotonic() - started
    tokens = _follow(words, run, config.steps, start.updates, what)
    source = read_source(run / FOLDER / LAST, Path(config.folders[0]) / "tokenizer")
    source.config.save(run)
    tensors = {"model": source.tensors, "objective": {}, "optimizer": {}}
    checkpoint.save(run, Checkpoint(config.steps, tensors, {"tokens": tokens, "facts": source.facts}), keep=1)
    return time.monotonic() - started


def _wait(words: list[str], run: Path) -> None:
    """Run the command on a machine that logs nothing, until it ends or a signal comes."""
    with PreemptionHandler() as preemption, _start(words, None) as process:
        try:
            while process.poll() is None and not preemption.signal_name:
                time.sleep(POLL)
        finally:
            process.terminate()
    if preemption.signal_name:
        raise preemption.error("in fairseq, which goes on from its last checkpoint")
    if process.returncode:
        raise _failed(process.returncode, run)


def _failed(code: int, run: Path) -> DataError:
    return DataError(f"fairseq-train ended with code {code}", file=run, remedy="Its last lines say why.")


def _follow(words: list[str], run: Path, steps: int, before: int, what: str) -> int:
    """Run the command; its log becomes our metrics and progress, without the steps of the run before. The tokens that it trained on."""
    saved = run / FOLDER / LAST
    earlier = [r for r in read_metrics(run) if r["split"] == "train"] if saved.exists() else []
    done, tokens = (earlier[-1]["step"], earlier[-1]["tokens"]) if earlier else (0, 0)
    tail: deque[str] = deque(maxlen=TAIL)
    with (
        PreemptionHandler() as preemption,
        MetricsWriter(run, done) as metrics,
        progress(what, steps, "steps", done) as bar,
        _start(words, subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                tail.append(line)
                if preemption.signal_name:
                    break
                parsed = record(line)
                if parsed is None or parsed[0] - before <= done * (parsed[1] == "train"):
                    continue
                step, split, figures = parsed[0] - before, *parsed[1:]
                if split == "train":
                    tokens += round(figures.pop("words", 0) * (step - done))
                    bar.advance(step - done, note=f"loss {figures['loss']:.3f}")
                    done, figures["tokens"] = step, tokens
                metrics.write(step, split, figures)
        finally:
            process.terminate()
    if preemption.signal_name:
        raise preemption.error(f"at step {done} of fairseq's, which goes on from its last checkpoint")
    if process.returncode and done < steps:
        print("".join(tail), file=sys.stderr)
        raise _failed(process.returncode, run)
    return tokens


def _start(words: list[str], output: int | None) -> subprocess.Popen[str]:
    """Start the command in its own environment, without what a launcher told this process: it is told by its options."""
    env = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "PYTHONUNBUFFERED": "1"}
    for name in ("PYTHONPATH", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)
    return subprocess.Popen(
        words,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        text=True,
        env=env,
        preexec_fn=dying_with_parent(),  # noqa: PLW1509 it calls prctl and nothing else
    )
