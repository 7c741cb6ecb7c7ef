"""The configuration of `biomlm distill cache` and `plan`, and the key that a cache and a run must share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from biomlm.core.errors import ConfigError
from biomlm.core.fields import Applies, decisive, only, runtime
from biomlm.distill.config import DistillConfig
from biomlm.model.config import Precision
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.config import BatchConfig, MixConfig, StageConfig
from biomlm.pretrain.objectives.config import MlmConfig

if TYPE_CHECKING:
    from biomlm.pretrain.data.dataset import Shards


@dataclass(frozen=True, kw_only=True)
class TeacherOutputsConfig:
    """Which outputs of a teacher are kept for the micro-batches of a run, which are fixed by the same options as in `biomlm distill`.

    Args:
        shards: Folder that `biomlm tokenizer encode` wrote, or several of one tokenizer.
        teacher: The model to run, or several, whose predictions are averaged.
        steps: Optimiser steps of the run.
        seed: Of the run.
        mlm: Of the run.
        batch: Of the run.
        curriculum: Of the run.
        mix: Of the run.
        kind: `sample` keeps k random draws from the teacher's distribution, with which the loss is right on average (arXiv 2503.16870);
            `top` the k largest probabilities and what remains as one more class, without their order.
        k: Draws or probabilities of a position; 0 keeps no predictions.
        temperature: What predictions are softened by: the run's `loss.temperature`.
        hidden: Layers of the teacher whose hidden states are kept, counted from 1, at all tokens in 16 bits; they take by far the
            most space.
        precision: Of the teacher's matrix products; `auto` is bf16 where the device computes it natively, fp16 on Volta and Turing,
            else fp32.
    """

    shards: list[str] | str
    teacher: list[str] | str
    steps: int = 100_000
    seed: int = 0
    mlm: MlmConfig = field(default_factory=MlmConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    curriculum: list[StageConfig] = field(default_factory=list)
    mix: MixConfig = field(
        default_factory=MixConfig,
        metadata={"applies": {"by": Applies(lambda c: c.mix.active, "--mix.weights or --mix.temperature")}},
    )
    kind: Literal["sample", "top"] = only("sample", lambda c: c.k > 0, "--k above 0")
    k: int = 64
    temperature: float = only(2.0, lambda c: c.k > 0, "--k above 0")
    hidden: list[int] = field(default_factory=list)
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if self.k < 0 or (self.k == 0 and not self.hidden):
            raise ConfigError("there is nothing to keep", remedy="Give --k 64, or layers with --hidden.")
        if self.kind == "sample" and self.k >= 1 << 16:
            raise ConfigError("k must be below 65,536 for samples", remedy="64 is usual.")
        if not 0 < self.temperature < math.inf:
            raise ConfigError("temperature must be positive", remedy="Give that of the run's loss.")
        if self.steps < 1 or min(self.hidden, default=1) < 1:
            raise ConfigError("steps and layers are counted from 1", remedy="Give positive numbers.")
        if isinstance(self.teacher, str):
            object.__setattr__(self, "teacher", [self.teacher])
        if not self.teacher or not all(self.teacher):
            raise ConfigError("there is no teacher", remedy="Give one or more with --teacher.")

    @property
    def run(self) -> PretrainConfig:
        """The part of the run's configuration that its micro-batches depend on."""
        return PretrainConfig(
            shards=self.shards,
            out="",
            steps=self.steps,
            seed=self.seed,
            mlm=self.mlm,
            batch=self.batch,
            curriculum=self.curriculum,
            mix=self.mix,
        )


@dataclass(frozen=True, kw_only=True)
class CacheConfig(TeacherOutputsConfig):
    """Compute a teacher's outputs ahead of time, so that `biomlm distill --cache` needs no teacher.

    Args:
        out: Folder to write.
        workers: Processes that run in parallel, each with a teacher of its own; on GPUs one a GPU, in turn.
        override: Go on in the folder although the configuration or an input changed.
    """

    out: str = field(metadata={"runtime": True})
    workers: int = runtime(1)
    override: bool = runtime(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers < 1:
            raise ConfigError("workers must be 1 at least", remedy="Leave it out for 1.")


def key_of(config: PretrainConfig, shards: "Shards", teachers: Sequence[str]) -> dict[str, Any]:
    """Collect what a run's micro-batches and a teacher's outputs depend on.

    Args:
        config: Of the run.
        shards: The training split.
        teachers: Hash of each teacher's weights; empty if the run has no teacher beside its cache.
    """
    key: dict[str, Any] = {
        "vocabulary": shards.tokenizer.fingerprint,
        "shards": shards.fingerprint,
        "seed": config.seed,
        "mlm": decisive(config.mlm),
        "batch": decisive(config.batch),
        "mix": decisive(config.mix),
        "curriculum": decisive(config.curriculum),
    }
    if config.curriculum or config.mlm.final_mask_rate is not None:  # stages and rates are stretched over the steps
        key["steps"] = config.steps
    if isinstance(config, DistillConfig) and config.loss.compares_predictions:
        key["temperature"] = config.loss.temperature
    return key | ({"teacher": list(teachers)} if teachers else {})
