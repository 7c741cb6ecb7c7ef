"""The configuration of `biomlm pretrain`, which `biomlm distill` extends."""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from biomlm.core.errors import ConfigError
from biomlm.core.fields import Applies, only, reads, require_positive, runtime
from biomlm.model.config import ComputeConfig, ModelConfig, Precision
from biomlm.model.optim.config import OptimConfig
from biomlm.pretrain.data.config import BatchConfig, MixConfig, StageConfig
from biomlm.pretrain.objectives.config import PAIRINGS, MlmConfig, ObjectiveConfig
from biomlm.tokenizer.documents import PUBLIC_SOURCES
from biomlm.training.config import DeepSpeedConfig, GuardConfig

EngineName = Literal["torch", "fsdp", "deepspeed", "fairseq"]

InitVocabulary = Literal["same", "random", "mean", "focus"]


@dataclass(frozen=True)
class ExamplesConfig:
    """Held-out sequences with the model's predictions filled in, written into `examples.txt` at every evaluation.

    Args:
        count: How many; 0 for none.
        sources: Whose documents may be shown. Name `notes` only where their text may lie in a run folder.
    """

    count: int = 0
    sources: list[str] = only(lambda: [*PUBLIC_SOURCES], lambda examples: examples.count > 0, "--examples.count")

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError("examples.count must not be negative", remedy="10 are quickly read; 0 writes none.")


NOT_FAIRSEQ = Applies(lambda config: config.engine != "fairseq", "an --engine of ours, torch, fsdp or deepspeed")


FROM_ELSEWHERE = [f"--objective.{name}" for name, pairing in PAIRINGS.items() if pairing.from_elsewhere]


def _has_sources(config: "PretrainConfig") -> bool:
    pairing = config.objective.pairing
    return config.mix.active or (pairing is not None and pairing.from_elsewhere)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretrain a masked-LM encoder on token shards.

    Args:
        shards: Folder that `biomlm tokenizer encode` wrote, or several of one tokenizer.
        out: Run folder; if it holds a run of the same configuration, that run goes on.
        steps: Optimiser steps in all.
        seed: Fixes initial weights, order, masks and dropout.
        init: A model to start from (run folder, Hugging Face folder or fairseq checkpoint); its shape is taken.
        needs_init: What `init` is to be: a configuration of a system that goes on from another model says it here, and is refused
            without one.
        longer: A run to train longer: its weights, optimizer state and place in the data go on under the steps and schedule given here.
        init_vocabulary: Its vocabulary must be the `same` as the shards', or its embeddings are moved to theirs: shared pieces are
            copied and others composed by `mean` or `focus` (docs/log.md has figures); `random` starts all rows anew.
        model: Shape of a model that starts from random weights.
        objective: What is minimised.
        mlm: What is masked.
        batch: What one step sees.
        curriculum: Stages before that, of shorter sequences or smaller batches, in order: `[{share: 0.9, max_length: 128}]`.
        mix: How sources are mixed.
        optim: How the weights move.
        precision: Of matrix products; `auto` is bf16 where the device computes it natively, fp16 on Volta and Turing, else fp32; fp16
            scales the loss.
        compute: Kernels and memory.
        freeze_layers: Keep the embeddings (and with them the decoder) and this many of the lowest layers as they are; 0 trains all.
        guard: What is done about bad steps.
        engine: What computes on how many processes: `torch` on one, or with DistributedDataParallel on several; `fsdp`, torch's FSDP2,
            shards weights and optimizer state; `deepspeed`; `fairseq` runs the real one in its own environment (docs/engines.md).
        deepspeed: How `deepspeed` computes.
        half_gradients: Exchange gradients between ranks in the run's 16 bits: half the bytes, for a network that holds steps up.
        timeout: Seconds after which a rank that the others wait for is given up and named.
        eval_mask_rate: Share of held-out tokens to predict, always the same ones, so that models can be compared.
        eval_every: Steps between evaluations on the held-out split; one is always done at the end.
        eval_tokens: Held-out tokens to evaluate on; 0 for all.
        examples: What the model makes of held-out sequences, in words.
        save_every: Steps between checkpoints; one is always written at the end.
        keep: Checkpoints to keep, the last ones.
        keep_every: Keep those of every so many steps too; 0 for none.
        log_every: Steps between records of the training loss.
        override: Go on in the run folder although the configuration or the shards changed.
    """

    shards: list[str] | str = field(metadata={"reads": True})
    out: str = field(metadata={"runtime": True})
    steps: int = 100_000
    seed: int = 0
    init: str | None = reads(None)
    needs_init: str = runtime("")
    longer: str | None = reads(None)
    init_vocabulary: InitVocabulary = "same"
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    mlm: MlmConfig = field(default_factory=MlmConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    curriculum: list[StageConfig] = field(default_factory=list)
    mix: MixConfig = field(
        default_factory=MixConfig,
        metadata={
            "applies": {"by": Applies(_has_sources, f"--mix.weights, --mix.temperature, {' or '.join(FROM_ELSEWHERE)}")}
        },
    )
    optim: OptimConfig = field(default_factory=OptimConfig)
    precision: Precision = "auto"
    compute: ComputeConfig = field(
        default_factory=ComputeConfig, metadata={"runtime": True, "applies": {"*": NOT_FAIRSEQ}}
    )
    freeze_layers: int = 0
    guard: GuardConfig = field(
        default_factory=GuardConfig,
        metadata={
            "applies": {
                "*": NOT_FAIRSEQ,
                "spike": Applies(lambda c: c.engine not in ("deepspeed", "fairseq"), "--engine torch or fsdp"),
            }
        },
    )
    engine: EngineName = field(default="torch", metadata={"runtime": True})
    deepspeed: DeepSpeedConfig = field(
        default_factory=DeepSpeedConfig,
        metadata={"runtime": True, "applies": {"*": Applies(lambda c: c.engine == "deepspeed", "--engine deepspeed")}},
    )
    half_gradients: bool = only(
        False,
        lambda c: c.engine == "torch" and c.precision != "fp32",
        "--engine torch and another --precision than fp32",
        former=False,
    )
    timeout: float = only(1800.0, lambda c: c.engine != "fairseq", NOT_FAIRSEQ.needs, runtime=True)
    eval_mask_rate: float = 0.15
    eval_every: int = runtime(1000)
    eval_tokens: int = 0
    examples: ExamplesConfig = field(
        default_factory=ExamplesConfig, metadata={"runtime": True, "applies": {"*": NOT_FAIRSEQ}}
    )
    save_every: int = runtime(1000)
    keep: int = runtime(2)
    keep_every: int = only(0, lambda c: c.engine != "fairseq", NOT_FAIRSEQ.needs, runtime=True)
    log_every: int = runtime(20)
    override: bool = runtime(False)

    @property
    def folders(self) -> list[str]:
        """The folders of shards."""
        return [self.shards] if isinstance(self.shards, str) else self.shards

    def __post_init__(self) -> None:
        if not self.folders:
            raise ConfigError("shards names no folder", remedy="Give one that `biomlm tokenizer encode` wrote.")
        if twice := [name for name, n in Counter(map(os.path.realpath, self.folders)).items() if n > 1]:
            raise ConfigError(
                "shards names this folder twice",
                file=twice[0],
                remedy="Weight folders by --mix.by folder, --mix.weights.",
            )
        if len(self.folders) == 1:  # one folder is the same configuration whether it is given as a list or not
            object.__setattr__(self, "shards", self.folders[0])
        require_positive(self, "timeout")
        for name in ("steps", "eval_every", "save_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 at least", remedy=f"Give a positive --{name}.")
        if self.needs_init and self.init is None and self.longer is None:
            problem = f"this configuration goes on from {self.needs_init}, and would train from random weights"
            raise ConfigError(problem, remedy="Name that model with --init.")
        if self.init is not None and self.longer is not None:
            raise ConfigError("init and longer both name a model to start from", remedy="Give one of the two.")
        if self.init is None and self.init_vocabulary != "same":
            raise ConfigError("init_vocabulary needs a model to take embeddings from", remedy="Give one with --init.")
        if not 0 < self.eval_mask_rate < 1:
            raise ConfigError("eval_mask_rate must lie between 0 and 1", remedy="0.15 makes models comparable.")
        if (self.batch.form == "pairs") != (self.objective.pairing is not None):
            raise ConfigError(
                "batch.form pairs and a pair objective go together",
                remedy=f"Give --batch.form pairs with one of --objective.{', '.join(PAIRINGS)}, or none of them.",
            )


def accumulations(config: PretrainConfig) -> list[tuple[str, int]]:
    """List the micro-batches of a step in every stage, each with the name of its option."""
    stages = [
        (f"curriculum[{number}].accumulation", stage.accumulation)
        for number, stage in enumerate(config.curriculum)
        if stage.accumulation is not None
    ]
    return [*stages, ("batch.accumulation", config.batch.accumulation)]


def idle_share(accumulation: int, processes: int) -> float:
    """Return the share of the processes' time that they are idle, since the micro-batches of a step go to them round-robin."""
    rounds = -(-accumulation // processes)
    return 1 - accumulation / (rounds * processes)


@dataclass(frozen=True)
class AverageConfig:
    """Average the weights of a run.

    Args:
        run: The run folder.
        out: Folder of the averaged model, which every verb reads as it reads a run.
        last: Checkpoints to take the mean of, the newest ones (`--keep` says how many a run keeps).
        ema: Take the running mean that `--optim.ema` kept, as the newest checkpoint holds it, instead.
    """

    run: str
    out: str = field(metadata={"runtime": True})
    last: int = only(5, lambda c: not c.ema, "no --ema, which takes one checkpoint")
    ema: bool = False

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ConfigError("last must be 1 at least", remedy="5 is usual.")
