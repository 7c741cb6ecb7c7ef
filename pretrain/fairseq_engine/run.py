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

import torch

from biomlm.convert.load import read_source
from biomlm.convert.safe_load import torch_file
from biomlm.core import checkpoint
from biomlm.core.checkpoint import Checkpoint
from biomlm.core.config import fairseq_env
from biomlm.core.errors import ConfigError, DataError
from biomlm.core.metrics import MetricsWriter, read_metrics
from biomlm.core.processes.children import dying_with_parent
from biomlm.core.progress import progress
from biomlm.model.config import EncoderConfig
from biomlm.model.device import choose
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.fairseq_engine.command import call, record
from biomlm.training.preemption import PreemptionHandler

FOLDER, LAST = "fairseq", "checkpoint_last.pt"
TAIL = 12  # lines of its log that an error shows


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


def train(config: PretrainConfig, encoder: EncoderConfig, what: str) -> float:
    """Run fairseq to the end and take its model over as the run's last checkpoint; the seconds that it took.

    Args:
        config: Of the run.
        encoder: The model's shape.
        what: The verb, for progress and messages.

    Raises:
        ConfigError: There is no fairseq, or it cannot do what the configuration says.
        DataError: It ended with an error.
        StoppedError: A signal came.
        UnsafeFileError: The checkpoint to go on from could run code.
    """
    run, gpu = Path(config.out), torch.cuda.is_available()
    precision = choose(config.precision).precision if gpu else config.precision.replace("auto", "fp32")
    words = [str(executable()), *call(config, encoder, run / FOLDER, precision, gpu=gpu)]
    if (last := run / FOLDER / LAST).exists():
        torch_file.load(last)
    print("+ " + " ".join(words), file=sys.stderr)
    started = time.monotonic()
    tokens = _follow(words, run, config.steps, what)
    source = read_source(run / FOLDER / LAST, Path(config.folders[0]) / "tokenizer")
    source.config.save(run)
    tensors = {"model": source.tensors, "objective": {}, "optimizer": {}}
    checkpoint.save(run, Checkpoint(config.steps, tensors, {"tokens": tokens, "facts": source.facts}), keep=1)
    return time.monotonic() - started


def _follow(words: list[str], run: Path, steps: int, what: str) -> int:
    """Run the command; its log becomes our metrics and progress. The tokens that it trained on."""
    saved = run / FOLDER / LAST
    earlier = [r for r in read_metrics(run) if r["split"] == "train"] if saved.exists() else []
    done, tokens = (earlier[-1]["step"], earlier[-1]["tokens"]) if earlier else (0, 0)
    tail: deque[str] = deque(maxlen=TAIL)
    with (
        PreemptionHandler() as preemption,
        MetricsWriter(run, done) as metrics,
        progress(what, steps, "steps", done) as bar,
        _start(words) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                tail.append(line)
                if preemption.signal_name:
                    break
                parsed = record(line)
                if parsed is None or parsed[0] <= done * (parsed[1] == "train"):
                    continue
                step, split, figures = parsed
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
        raise DataError(
            f"fairseq-train ended with code {process.returncode}", file=run, remedy="Its last lines say why."
        )
    return tokens


def _start(words: list[str]) -> subprocess.Popen[str]:
    """Start the command in its own environment."""
    env = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "PYTHONUNBUFFERED": "1"}
    env.pop("PYTHONPATH", None)
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        preexec_fn=dying_with_parent(),  # noqa: PLW1509 it calls prctl and nothing else
    )
