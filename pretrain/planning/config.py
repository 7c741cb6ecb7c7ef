"""The configurations of the verbs that measure a model and train nothing, in a module without torch: `--help` reads it."""

from dataclasses import dataclass, field

from biomlm.core.errors import ConfigError
from biomlm.core.fields import require_positive, runtime
from biomlm.model.config import ComputeConfig, Precision


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a masked-LM encoder on held-out text: the figures that a run of `biomlm pretrain` on these shards ends with.

    Args:
        model: Run folder, Hugging Face folder or fairseq checkpoint over the shards' vocabulary.
        shards: Folder that `biomlm tokenizer encode` wrote.
        out: Folder for result.json.
        max_length: Longest sequence in tokens, `<s>` and `</s>` included; left out, what the model takes.
        eval_mask_rate: Share of held-out tokens to predict, always the same ones, so that models can be compared.
        eval_tokens: Held-out tokens to evaluate on; 0 for all.
        tokens: Tokens of a micro-batch.
        precision: Of matrix products; `auto` is bf16 where the device computes it natively, fp16 on Volta and Turing, else fp32.
    """

    model: str
    shards: str
    out: str = field(metadata={"runtime": True})
    max_length: int | None = None
    eval_mask_rate: float = 0.15
    eval_tokens: int = 0
    tokens: int = runtime(8192)
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "max_length", "tokens")
        if not 0 < self.eval_mask_rate < 1:
            raise ConfigError("eval_mask_rate must lie between 0 and 1", remedy="0.15 makes models comparable.")


@dataclass(frozen=True)
class TrialConfig:
    """Find the micro-batch that trains a model fastest, and how fast: by a short trial on this machine, or by the plan of a fleet.

    Args:
        init: The model that is to be trained (run folder, Hugging Face folder or fairseq checkpoint).
        shards: Folder that `biomlm tokenizer encode` wrote, with the model's vocabulary.
        out: Folder for result.json.
        max_length: Longest sequence in tokens, `<s>` and `</s>` included; left out, what the model takes.
        mask_rate: Share of tokens to predict.
        largest: Tokens of the largest micro-batch that is tried.
        precision: Of matrix products; `auto` is bf16 where the device computes it natively, fp16 on Volta and Turing, else fp32.
        compute: Kernels and memory.
        fleet: GPUs to plan for by formulas instead (docs/scaling.md), such as `1 x v100-16gb`, if this machine has none.
    """

    init: str
    shards: str
    out: str = field(metadata={"runtime": True})
    max_length: int | None = None
    mask_rate: float = 0.15
    largest: int = 65_536
    precision: Precision = "auto"
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    fleet: str = ""

    def __post_init__(self) -> None:
        require_positive(self, "max_length", "largest")
        if not 0 < self.mask_rate < 1:
            raise ConfigError("mask_rate must lie between 0 and 1", remedy="0.15 is BERT's and RoBERTa's.")


@dataclass(frozen=True)
class InspectConfig:
    """Count what a run's first batches held: masks, pairs, lengths.

    Args:
        run: Folder of `biomlm pretrain` or `biomlm distill`; its shards must still be where they were.
        tokens: Look at the first steps that hold so many tokens together.
        out: JSON file for the counts; none if empty.
    """

    run: str
    tokens: int = 50_000
    out: str = runtime("")

    def __post_init__(self) -> None:
        require_positive(self, "tokens")
