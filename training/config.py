"""What a configuration says of the loop and its engines, in a module without torch: `--help` reads it."""

from dataclasses import dataclass
from typing import Literal

from biomlm.core.errors import ConfigError
from biomlm.core.fields import only, runtime

EngineName = Literal["torch", "fsdp", "deepspeed"]


@dataclass(frozen=True)
class GuardConfig:
    """Steps that do not move the weights, and when the run goes back.

    Args:
        spike: A gradient this many times as long as usual is left out; 0 leaves out only those that are not finite.
        patience: After so many bad steps in a row the run goes back to the last checkpoint before them, and steps over their batches.
        rewinds: How often it may do so before it is given up.
        on_divergence: What is done when the run unlearns (docs/engines.md): `stop` it, `rewind` it to the last checkpoint of its best
            time and step over the batches since, or do that and `halve` the learning rate from there on.
    """

    spike: float = 20.0
    patience: int = 10
    rewinds: int = 3
    on_divergence: Literal["stop", "rewind", "halve"] = runtime("stop")

    def __post_init__(self) -> None:
        if self.spike != 0 and self.spike <= 1:
            raise ConfigError("guard.spike must be above 1", remedy="10 to 50 leave ordinary steps alone; 0 is off.")
        if self.patience < 1 or self.rewinds < 0:
            raise ConfigError(
                "guard.patience must be 1 at least, guard.rewinds not negative", remedy="10 and 3 are the defaults."
            )


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What a verb tells the loop of its run.

    Args:
        steps: Optimiser steps in all.
        seed: Of dropout.
        guard: What is done about bad steps.
        log_every: Steps between records of the training loss.
        eval_every: Steps between evaluations; one is always done at the end.
        save_every: Steps between checkpoints; one is always written at the end.
        keep: Checkpoints to keep, the last ones.
        keep_every: Keep those of every so many steps too; 0 for none.
        timeout: Seconds after which a rank that the others wait for is given up and named.
    """

    steps: int
    seed: int
    guard: GuardConfig
    log_every: int
    eval_every: int
    save_every: int
    keep: int
    keep_every: int
    timeout: float


@dataclass(frozen=True)
class DeepSpeedConfig:
    """DeepSpeed's part of a run.

    Args:
        stage: What ZeRO shards over the ranks: 1 optimizer state, 2 gradients too, 3 weights too; 0 nothing.
        offload: Keep the optimizer state, and compute the update, in the host's memory.
        config: A ds_config of DeepSpeed's (JSON) whose entries win over all of this.
    """

    stage: Literal[0, 1, 2, 3] = 2
    offload: bool = only(False, lambda zero: zero.stage > 0 or bool(zero.config), "--deepspeed.stage 1, 2 or 3")
    config: str | None = None
