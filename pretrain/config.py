"""The configuration of `biolm pretrain`, which `biolm distill` extends."""

from dataclasses import dataclass, field
from typing import Literal

from biolm.core.config import runtime
from biolm.core.errors import ConfigError
from biolm.model.config import ModelConfig
from biolm.model.device import Precision
from biolm.model.optim import OptimConfig

InitVocabulary = Literal["same", "random", "mean", "focus"]


@dataclass(frozen=True)
class MlmConfig:
    """Masked language modelling with dynamic masks (Devlin et al. 2019, arXiv 1810.04805; Liu et al. 2019, arXiv 1907.11692).

    Args:
        mask_rate: Share of tokens to predict.
        mask_share: Of these, the share shown as `<mask>`.
        random_share: Of these, the share shown as a random token; the rest is shown as it is.
        unit: What is chosen: single tokens, whole words, or n-grams of 1 to 3 words weighted 1/n (Megatron-LM, GatorTron).
        max_predictions: Most tokens to predict in a sequence (20 at length 128 in BERT and Bio_ClinicalBERT); 0 for no limit.
        static_masks: Mask the corpus this many times and come round again, as BERT's duplication factor does (Bio_ClinicalBERT: 5); 0
            masks anew in every epoch.
    """

    mask_rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    unit: Literal["token", "word", "ngram"] = "token"
    max_predictions: int = 0
    static_masks: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.mask_rate < 1:
            raise ConfigError("mlm.mask_rate must lie between 0 and 1", remedy="0.15 is BERT's and RoBERTa's.")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise ConfigError(
                "mlm.mask_share and mlm.random_share must add up to 1 at most", remedy="Take 0.8 and 0.1."
            )


@dataclass(frozen=True)
class BatchConfig:
    """What one optimiser step sees.

    Args:
        tokens: Tokens of a micro-batch on average, `<s>` and `</s>` included; the largest holds up to one sequence more.
        accumulation: Micro-batches of one step, over all processes.
        max_length: Longest sequence in tokens, `<s>` and `</s>` included.
    """

    tokens: int = 8192
    accumulation: int = 1
    max_length: int = 512

    def __post_init__(self) -> None:
        if self.max_length < 8:
            raise ConfigError("batch.max_length must be 8 at least", remedy="512 is usual.")
        if self.tokens < self.max_length:
            raise ConfigError(
                f"batch.tokens ({self.tokens}) is less than one sequence (batch.max_length {self.max_length})",
                remedy="Raise batch.tokens, or lower batch.max_length.",
            )
        if self.accumulation < 1:
            raise ConfigError("batch.accumulation must be 1 at least", remedy="Leave it out for 1.")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretrain a masked-LM encoder on token shards.

    Args:
        shards: Folder that `biolm tokenizer encode` wrote.
        out: Run folder; if it holds a run of the same configuration, that run goes on.
        steps: Optimiser steps in all.
        seed: Fixes initial weights, order, masks and dropout.
        init: A model to start from (run folder, Hugging Face folder or fairseq checkpoint); its shape is taken.
        init_vocabulary: Its vocabulary must be the `same` as the shards', or its embeddings are moved to theirs: shared pieces are
            copied and others composed by `mean` or `focus` (docs/log.md has figures); `random` starts all rows anew.
        model: Shape of a model that starts from random weights.
        mlm: What is masked.
        batch: What one step sees.
        optim: How the weights move.
        precision: Of matrix products; `auto` is bf16 where the device computes it natively, else fp32.
        eval_mask_rate: Share of held-out tokens to predict, always the same ones, so that models can be compared.
        eval_every: Steps between evaluations on the held-out split; one is always done at the end.
        eval_tokens: Held-out tokens to evaluate on; 0 for all.
        save_every: Steps between checkpoints; one is always written at the end.
        keep: Checkpoints to keep.
        log_every: Steps between records of the training loss.
        override: Go on in the run folder although the configuration or the shards changed.
    """

    shards: str
    out: str = field(metadata={"runtime": True})
    steps: int = 100_000
    seed: int = 0
    init: str | None = None
    init_vocabulary: InitVocabulary = "same"
    model: ModelConfig = field(default_factory=ModelConfig)
    mlm: MlmConfig = field(default_factory=MlmConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    precision: Precision = "auto"
    eval_mask_rate: float = 0.15
    eval_every: int = runtime(1000)
    eval_tokens: int = 0
    save_every: int = runtime(1000)
    keep: int = runtime(2)
    log_every: int = runtime(20)
    override: bool = runtime(False)

    def __post_init__(self) -> None:
        for name in ("steps", "eval_every", "save_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 at least", remedy=f"Give a positive --{name}.")
        if self.init is None and self.init_vocabulary != "same":
            raise ConfigError("init_vocabulary needs a model to take embeddings from", remedy="Give one with --init.")
        if not 0 < self.eval_mask_rate < 1:
            raise ConfigError("eval_mask_rate must lie between 0 and 1", remedy="0.15 makes models comparable.")
