"""`biomlm pretrain average`: the mean of a run's last checkpoints, or the running mean that it kept, as a model of its own.

Averaging the last checkpoints of a run (Vaswani et al. 2017, arXiv 1706.03762, section 6.1) or a running mean of its weights (Polyak and
Juditsky 1992) costs nothing at inference and often gains what a decay of the learning rate would.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from biomlm.convert.formats import native
from biomlm.core import checkpoint, manifest
from biomlm.core.checkpoint import Checkpoint
from biomlm.core.errors import CheckpointError
from biomlm.core.files import refuse_target, sha256, stage
from biomlm.core.summary import summary
from biomlm.model.config import EncoderConfig
from biomlm.model.optim.optimizer import EMA
from biomlm.pretrain.config import AverageConfig
from biomlm.tokenizer.formats import folder as tokenizer_folder

STAGE = "pretrain average"


def average(config: AverageConfig) -> None:
    """Write the mean as a model folder."""
    run, out = Path(config.run), Path(config.out)
    refuse_target(out, [run], option="--out", ours=stage)
    encoder = EncoderConfig.load(run)
    steps = checkpoint.steps(run)
    if not config.ema and len(steps) < config.last:
        raise CheckpointError(
            f"{len(steps)} checkpoints, of which {config.last} are to be averaged",
            file=run,
            remedy=f"Give --last {len(steps) or 1}, or train with a larger --keep.",
        )
    taken = [checkpoint.path_of(run, step) for step in (steps[-1:] if config.ema else steps[-config.last :])]
    checkpoints = [checkpoint.load(path) for path in taken]
    hashes = {path.name: sha256(path / checkpoint.STATE) for path in taken}
    hashes |= {
        "encoder": manifest.digest(asdict(encoder)),
        "tokenizer": manifest.digest(tokenizer_folder.contents(run / native.TOKENIZER)),
    }
    record = manifest.begin(out, STAGE, config, hashes, unrecorded=["encoder", "tokenizer"])
    if record.status != "done":
        model = (
            running_mean(checkpoints[-1], run)
            if config.ema
            else mean([dict(one.tensors["model"]) for one in checkpoints])
        )
        encoder.save(out)
        tokenizer_folder.copy(run / native.TOKENIZER, out / native.TOKENIZER)
        tensors = {"model": model, "objective": checkpoints[-1].tensors.get("objective", {})}
        path = checkpoint.save(out, Checkpoint(0, tensors, {"averaged": [one.step for one in checkpoints]}), keep=1)
        record.finish(out, sorted(path.iterdir()), {"checkpoints": len(checkpoints), "tensors": len(model)})
    what = "running mean of step" if config.ema else "mean of steps"
    summary(f"biomlm {STAGE} → {out}", {what: " ".join(str(one.step) for one in checkpoints)})


def mean(models: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average every tensor, summed in float64."""
    return {
        name: torch.stack([model[name].double() for model in models]).mean(0).to(tensor.dtype)
        for name, tensor in models[-1].items()
    }


def running_mean(newest: Checkpoint, run: Path) -> dict[str, Tensor]:
    """Return the checkpoint's weights with the running mean in place of those that were trained.

    Raises:
        CheckpointError: The run kept none.
    """
    moments = newest.tensors["optimizer"]
    kept = {name: moments[f"{EMA}.{name}"] for name in newest.tensors["model"] if f"{EMA}.{name}" in moments}
    if not kept:
        raise CheckpointError("this run kept no running mean", file=run, remedy="Train it with --optim.ema 0.999.")
    return {**newest.tensors["model"], **kept}
