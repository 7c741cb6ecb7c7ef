"""The configuration of `biomlm distill`: pretraining's, a teacher, how the student starts, and the weights of the losses."""

from dataclasses import dataclass, field
from typing import Literal

from biomlm.core.errors import ConfigError
from biomlm.core.fields import reads, runtime
from biomlm.distill.losses.config import LossConfig
from biomlm.distill.losses.layer_maps import check_map
from biomlm.model.config import Precision
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.objectives.config import ObjectiveConfig


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

    teacher: list[str] | str = reads("")
    cache: str = reads("")
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
        check_map(self.start_layers, "start_layers", ("every", "uniform"))
        if self.cache and self.teacher_compile:
            raise ConfigError("a cache needs no compiled teacher", remedy="Leave out teacher_compile.")
        by_token = self.loss.options_of(lambda part: part.involves_teacher and not part.by_word)
        if self.vocabulary == "words" and (self.cache or by_token):
            raise ConfigError(
                "a teacher with another vocabulary can be aligned on words by its hidden states only",
                remedy=f"Give {' '.join([*(f'--{option} 0' for option in by_token), *['no --cache'] * bool(self.cache)])}.",
            )
        if self.vocabulary == "words" and self.start == "teacher":
            raise ConfigError(
                "a teacher with another vocabulary has no embeddings for the student to start from",
                remedy="Give --start scratch, or move a model over with --init and --init_vocabulary.",
            )
        fused = self.compute.compile or self.compute.recompute or self.teacher_compile
        if fused and (inside := self.loss.options_of(lambda part: part.looks_inside)):
            raise ConfigError(
                f"{' and '.join(inside)} looks into a layer, which compiled or recomputed layers do not allow",
                remedy=f"Leave out compute.compile, compute.recompute and teacher_compile, or {' and '.join(inside)}.",
            )
        if self.cache and (uncached := self.loss.options_of(lambda part: part.involves_teacher and not part.cached)):
            raise ConfigError(
                f"a cache holds predictions and hidden states, not what {' and '.join(uncached)} is learnt from",
                remedy=f"Leave out --cache, or {' and '.join(uncached)}.",
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
        precision: Of matrix products; `auto` is bf16 where the device computes it natively, fp16 on Volta and Turing, else fp32.
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
