"""The configuration of `biomlm distill`: pretraining's, a teacher, how the student starts, and the weights of the losses."""

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from biomlm.core.errors import ConfigError
from biomlm.core.fields import runtime
from biomlm.distill.losses.kinds import Distance, Kind
from biomlm.distill.losses.layer_maps import check_map
from biomlm.model.config import Precision
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.objectives.config import ObjectiveConfig

Weight = float | str  # a number, or `a..b`: linearly from a to b over the run's steps

NUMBER = r"[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?"
TEACHER_PARTS = ("kl", "hidden", "pooled", "embeddings", "relations")  # parts that involve the teacher
OPTIONS = {  # of parts, without which they do nothing
    "temperature": ("kl",),
    "layers": ("hidden",),
    "distance": ("hidden", "pooled", "embeddings"),
    "relation": ("relations",),
    "relation_heads": ("relations",),
    "relation_layer": ("relations",),
}
RAMP = re.compile(rf"({NUMBER})\.\.({NUMBER})")


def weight_at(weight: Weight, share: float) -> float:
    """Evaluate a weight after a share of the run's steps, from 0 to 1."""
    if not isinstance(weight, str):
        return weight
    start, end = _ends(weight)
    return start + (end - start) * share


def largest(weight: Weight) -> float:
    """Give the largest value of a weight over the run."""
    return max(weight_at(weight, 0), weight_at(weight, 1))


def _ends(weight: str) -> tuple[float, float]:
    match = RAMP.fullmatch(weight)
    if match is None:
        raise ConfigError(
            f"`{weight}` is no weight", remedy="Give a number, or two such as 5..1 for a linear change over the run."
        )
    return float(match[1]), float(match[2])


@dataclass(frozen=True)
class LossConfig:
    """Weights of the parts of the loss, each a number or `a..b` for a linear change from a to b over the run; 0 leaves a part out.

    The defaults are DistilBioBERT's (Rohanian et al. 2023, github.com/nlpie-research/Compact-Biomedical-Transformers), a stand-in for
    bio-lm's, which are not published: `hidden` 0 gives its distill model's parts, above 0 those of distill-align.

    Args:
        kl: Of the soft cross-entropy with the teacher at masked positions.
        temperature: What both predictions are softened by.
        mlm: Of the masked-LM loss.
        hidden: Of the alignment of hidden states at all tokens, through a learned projection where widths differ.
        layers: Which hidden states: `last`; `uniform` for every student layer, evenly spread over the teacher's; or pairs of student and
            teacher layers such as 1:2,2:4, counted from 1.
        distance: Of hidden states, their means and embeddings: `cosine` (DistilBERT) or `mse` (TinyBERT).
        pooled: Of the alignment of each sequence's mean last hidden state, which is what a sentence encoder gives out (Reimers and
            Gurevych 2020, arXiv 2004.09813), through the last layers' projection; a sequence counts by its tokens.
        embeddings: Of the alignment of the embeddings' outputs, through a projection of their own.
        relations: Of the attention relations of the student's last layer and one of the teacher's.
        relation: `minilm` (query-key and value-value) or `minilmv2` (query-query, key-key, value-value).
        relation_heads: Heads to cut queries, keys and values into; 0 for as many as the student has.
        relation_layer: The teacher's layer, counted from 1; 0 for the last, as MiniLM takes it (MiniLMv2 takes the 21st of 24).
    """

    kl: Weight = 5.0
    temperature: float = 2.0
    mlm: Weight = 2.0
    hidden: Weight = 1.0
    layers: str = "last"
    distance: Distance = "cosine"
    pooled: Weight = 0.0
    embeddings: Weight = 0.0
    relations: Weight = 0.0
    relation: Kind = "minilmv2"
    relation_heads: int = 0
    relation_layer: int = 0

    def __post_init__(self) -> None:
        for part in (*TEACHER_PARTS, "mlm"):
            if not all(0 <= weight_at(getattr(self, part), share) < math.inf for share in (0, 1)):
                raise ConfigError(
                    f"loss.{part} is {getattr(self, part)}, and weights are numbers from 0",
                    remedy="Give 0 to leave the part out.",
                )
        if not any(map(self.uses, TEACHER_PARTS)):
            raise ConfigError(
                "a part that involves the teacher needs a positive weight", remedy="Raise loss.kl or loss.hidden."
            )
        for option, parts in OPTIONS.items():
            if getattr(self, option) != getattr(LossConfig, option) and not any(map(self.uses, parts)):
                raise ConfigError(
                    f"loss.{option} says how loss.{' or '.join(parts)} is learnt, which is left out",
                    remedy=f"Leave out loss.{option}, or give loss.{parts[0]} a weight.",
                )
        if not 0 < self.temperature < math.inf:
            raise ConfigError("loss.temperature must be positive", remedy="Take 2.")
        if min(self.relation_heads, self.relation_layer) < 0:
            raise ConfigError(
                "loss.relation_heads and loss.relation_layer are counts", remedy="Leave them out for the defaults."
            )
        check_map(self.layers, "loss.layers")

    def uses(self, part: str) -> bool:
        """Whether a part has a weight above 0 at any time."""
        return largest(getattr(self, part)) > 0


@dataclass(frozen=True, kw_only=True)
class DistillConfig(PretrainConfig):
    """Distil a teacher into a student on token shards; all options of `biomlm pretrain` hold for the student.

    Args:
        teacher: The model to learn from (run folder, Hugging Face folder or fairseq checkpoint), or several, whose predictions are
            averaged. May be left out with a cache.
        cache: A folder that `biomlm distill cache` wrote: the teacher's outputs are read from it instead of computed.
        vocabulary: The teacher's must be the `same` as the shards'; or it has another one and only hidden states are learnt, averaged
            over each of the text's `words`.
        start: Initial weights, unless `init` names a model: from `scratch`, or the `teacher`'s, some of its layers and, where the student
            is narrower, a part of their width.
        start_layers: The teacher's layers that a student with `start: teacher` takes: `every` takes the first of each k layers
            (DistilBERT), `uniform` the last of each k, and pairs such as 1:1,2:4 are taken as they are.
        start_width: How a narrower student is cut out: `important` keeps the coordinates, heads and neurons with the largest weights
            (weight subcloning, Samragh et al. 2023, arXiv 2312.09299), `svd` the widest directions of the embeddings.
        teacher_compile: Fuse the teacher's layers with torch.compile, as `compute.compile` does the student's.
        loss: What is learnt from it.
    """

    teacher: list[str] | str = ""
    cache: str = ""
    vocabulary: Literal["same", "words"] = "same"
    start: Literal["scratch", "teacher"] = "scratch"
    start_layers: str = "every"
    start_width: Literal["important", "svd"] = "important"
    teacher_compile: bool = runtime(False)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.teacher, str):  # one way to write it, so that flag and YAML have one hash
            object.__setattr__(self, "teacher", [self.teacher] if self.teacher else [])
        if self.objective != ObjectiveConfig():
            raise ConfigError("a student learns by --loss, not by --objective", remedy="Weight the parts by --loss.")
        if self.engine == "fairseq":
            raise ConfigError("fairseq cannot distil", remedy="Take another --engine; its checkpoints can be teachers.")
        if not all(self.teachers) or not (self.teachers or self.cache):
            raise ConfigError("there is no teacher", remedy="Give one or more with --teacher, or a --cache.")
        if self.start == "teacher" and (self.init or self.longer or not self.teachers):
            raise ConfigError(
                "start: teacher takes the weights of --teacher, and of nothing else",
                remedy="Give --init or --start teacher, and with the latter a --teacher.",
            )
        if self.start == "scratch" and (self.start_layers, self.start_width) != ("every", "important"):
            raise ConfigError(
                "start_layers and start_width say which parts of its teacher a student takes, and it takes none",
                remedy="Give --start teacher, or leave them out.",
            )
        if self.start_layers != "every":
            check_map(self.start_layers, "start_layers")
        if self.cache and self.teacher_compile:
            raise ConfigError("a cache needs no compiled teacher", remedy="Leave out teacher_compile.")
        beyond_words = self.cache or any(self.loss.uses(part) for part in TEACHER_PARTS if part != "hidden")
        if self.vocabulary == "words" and beyond_words:
            raise ConfigError(
                "a teacher with another vocabulary can be aligned on words by its hidden states only",
                remedy="Give --loss.kl 0, and no pooled, embeddings, relations or cache.",
            )
        if self.vocabulary == "words" and self.start == "teacher":
            raise ConfigError(
                "a teacher with another vocabulary has no embeddings for the student to start from",
                remedy="Give --start scratch, or move a model over with --init and --init_vocabulary.",
            )
        fused = self.compute.compile or self.compute.recompute or self.teacher_compile
        if self.loss.uses("relations") and fused:
            raise ConfigError(
                "loss.relations looks into a layer, which compiled or recomputed layers do not allow",
                remedy="Leave out compute.compile, compute.recompute and teacher_compile, or loss.relations.",
            )
        if self.cache and any(self.loss.uses(part) for part in ("embeddings", "relations")):
            raise ConfigError(
                "a cache holds predictions and hidden states, not what embeddings and relations are learnt from",
                remedy="Leave out --cache, or loss.embeddings and loss.relations.",
            )

    @property
    def teachers(self) -> list[str]:
        """The teachers' paths."""
        assert isinstance(self.teacher, list)
        return self.teacher


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """A report on a distilled student, on the held-out split of the shards that it was trained on.

    Args:
        run: Run folder that `biomlm distill` wrote.
        teacher: Its teacher, if the run's own is not there any more.
        alone: Run folder of the same student without a teacher.
        tokens: Held-out tokens to read; 0 for all.
        mask_rate: Share of these to predict, always the same ones.
        precision: Of matrix products.
        out: Folder for report.html and report.json.
    """

    run: str
    teacher: str = ""
    alone: str = ""
    tokens: int = 0
    mask_rate: float = 0.15
    precision: Precision = "auto"
    out: str = field(metadata={"runtime": True})

    def __post_init__(self) -> None:
        if not 0 < self.mask_rate <= 1:
            raise ConfigError("mask_rate is a share above 0, up to 1", remedy="0.15 makes models comparable.")
        if self.tokens < 0:
            raise ConfigError("tokens is a number from 0", remedy="Leave it out, or give 0, for all.")
