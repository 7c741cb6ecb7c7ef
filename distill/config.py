"""The configuration of `biolm distill`: pretraining's, a teacher, and the weights of the losses."""

from dataclasses import dataclass, field

from biolm.core.errors import ConfigError
from biolm.pretrain.config import PretrainConfig


@dataclass(frozen=True)
class LossConfig:
    """Weights of the parts of the loss.

    The defaults are DistilBioBERT's (Rohanian et al. 2023, github.com/nlpie-research/Compact-Biomedical-Transformers), a stand-in for
    bio-lm's, which are not published: `hidden` 0 gives its distill model's parts, above 0 those of distill-align.

    Args:
        kl: Of the soft cross-entropy with the teacher at masked positions.
        temperature: What both predictions are softened by.
        mlm: Of the masked-LM loss.
        hidden: Of the alignment of last hidden states at all tokens, through a learned projection where widths differ.
    """

    kl: float = 5.0
    temperature: float = 2.0
    mlm: float = 2.0
    hidden: float = 1.0

    def __post_init__(self) -> None:
        if min(self.kl, self.mlm, self.hidden) < 0 or self.kl + self.hidden == 0:
            raise ConfigError(
                "a part that involves the teacher needs a positive weight", remedy="Raise loss.kl or loss.hidden."
            )
        if self.temperature <= 0:
            raise ConfigError("loss.temperature must be positive", remedy="Take 2.")


@dataclass(frozen=True, kw_only=True)
class DistillConfig(PretrainConfig):
    """Distil a teacher into a student on token shards; all options of `biolm pretrain` hold for the student.

    Args:
        teacher: The model to learn from (run folder, Hugging Face folder or fairseq checkpoint), with the shards' vocabulary.
        loss: What is learnt from it.
    """

    teacher: str
    loss: LossConfig = field(default_factory=LossConfig)
