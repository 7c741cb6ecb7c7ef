"""What a step sees: sizes and form of its sequences, stages of a run, and how sources are mixed."""

from dataclasses import dataclass, field
from typing import Literal

from biomlm.core.errors import ConfigError
from biomlm.core.fields import only, require_positive


@dataclass(frozen=True)
class BatchConfig:
    """What one optimiser step sees.

    Args:
        tokens: Tokens of a micro-batch on average, `<s>` and `</s>` included; the largest holds up to one sequence more.
        accumulation: Micro-batches of one step, over all processes.
        max_length: Longest sequence in tokens, `<s>` and `</s>` included.
        form: A sequence is whole sentences of one `document`; or `full` of them, across documents with a `</s>` between (both
            arXiv 1907.11692); or `pairs` of segments for one of the pair objectives.
        short_seq_prob: Share of documents whose pairs are shorter, of a random length (0.1 in BERT).
    """

    tokens: int = 8192
    accumulation: int = 1
    max_length: int = 512
    form: Literal["document", "full", "pairs"] = "document"
    short_seq_prob: float = only(0.1, lambda batch: batch.form == "pairs", "--batch.form pairs")

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
        if not 0 <= self.short_seq_prob <= 1:
            raise ConfigError("batch.short_seq_prob must lie between 0 and 1", remedy="0.1 is BERT's.")


@dataclass(frozen=True)
class StageConfig:
    """A stage before the last one, which `batch` describes; what is left out is `batch`'s.

    Args:
        share: Of all steps.
        steps: Its steps, instead of a share.
        max_length: Longest sequence in tokens, `<s>` and `</s>` included.
        tokens: Tokens of a micro-batch on average.
        accumulation: Micro-batches of one step, over all processes.
    """

    share: float | None = None
    steps: int | None = None
    max_length: int | None = None
    tokens: int | None = None
    accumulation: int | None = None

    def __post_init__(self) -> None:
        require_positive(self, "max_length", "tokens", "accumulation", prefix="curriculum.")
        if (self.share is None) == (self.steps is None):
            raise ConfigError("a stage of the curriculum has either a share or steps", remedy="Give it one of the two.")
        if (self.share is not None and not 0 < self.share < 1) or (self.steps is not None and self.steps < 1):
            raise ConfigError(
                "a stage's share lies between 0 and 1, its steps are 1 at least", remedy="BERT's first stage has 0.9."
            )


@dataclass(frozen=True)
class MixConfig:
    """How the sources of the shards are mixed; without any of it every sequence is read once an epoch.

    Args:
        by: What a source is: the `source` of its documents (as `corpus build` names them), or a `folder` of shards, named as it is given.
        weights: Source → share of the tokens, relative to the others'; every source needs one, 0 leaves it out.
        temperature: Shares are proportional to tokens^(1/T): 1 as they are, large ones all equal (arXiv 1907.05019).
    """

    by: Literal["source", "folder"] = "source"
    weights: dict[str, float] = field(default_factory=dict)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 1:
            raise ConfigError("mix.temperature must be 1 at least", remedy="2 to 5 are usual; 1 mixes nothing.")
        if self.weights and self.temperature != 1:
            raise ConfigError("mix.weights and mix.temperature exclude each other", remedy="Leave one of them out.")
        if self.weights and (min(self.weights.values()) < 0 or max(self.weights.values()) == 0):
            raise ConfigError("mix.weights must not be negative, nor all be 0", remedy="Only their ratios count.")

    @property
    def active(self) -> bool:
        """Whether any source is read more or less often than another."""
        return bool(self.weights) or self.temperature != 1
