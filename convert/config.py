"""The configurations of `biomlm convert` and its verbs, in a module without torch: `--help` reads it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from biomlm.convert.formats.registry import WRITTEN
from biomlm.core.errors import ConfigError
from biomlm.core.fields import added, runtime

if TYPE_CHECKING:
    Kind = str
else:
    Kind = Literal[WRITTEN]
TOLERANCE = 1e-5
MASK = "<mask>"


@dataclass(frozen=True)
class ConvertConfig:
    """A conversion.

    Args:
        src: A run folder or one of its checkpoints; a Hugging Face folder; a checkpoint of fairseq, Composer, DeepSpeed,
            Megatron-LM or TensorFlow; a published .tar.gz of one.
        dst: Folder to write; it must be new or empty, or an earlier conversion and --override given.
        to: The format.
        dtype: Number type of the weights written; `source` keeps the source's.
        rows: Embedding rows beyond the tokenizer's vocabulary (padding to a round number): keep them or cut them.
        weights: Those that were trained, or the running mean of them (`ema`) that the checkpoint keeps beside them.
        tokenizer: A tokenizer folder, or one with those of dict.txt, encoder.json and vocab.bpe that SRC lacks.
        override: Replace an earlier conversion at DST.
    """

    src: str
    dst: str
    to: Kind
    dtype: Literal["source", "float32", "float16", "bfloat16"] = "source"
    rows: Literal["keep", "cut"] = "keep"
    weights: Literal["trained", "ema"] = added("trained")
    tokenizer: str = ""
    override: bool = False

    def __post_init__(self) -> None:
        if self.to not in WRITTEN:
            raise ConfigError(f"--to {self.to} is no format", remedy=f"Choose one of {', '.join(WRITTEN)}.")


@dataclass(frozen=True)
class CompareConfig:
    """A comparison.

    Args:
        a: A model of any kind: run folder, Hugging Face folder, fairseq checkpoint.
        b: Another.
        tolerance: Largest difference at which they count as equal, relative to the layer's largest magnitude where that is above 1.
    """

    a: str
    b: str
    tolerance: float = runtime(TOLERANCE)


@dataclass(frozen=True)
class FillConfig:
    """Sentences to fill.

    Args:
        model: A model of any kind with its tokenizer: run folder, Hugging Face folder, fairseq checkpoint.
        sentences: Sentences with one `<mask>` or more each.
        top_k: How many words to show for a mask.
        out: A JSON file to write the result to as well.
    """

    model: str
    sentences: list[str]
    top_k: int = 5
    out: str = field(default="", metadata={"runtime": True})

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ConfigError("top_k must be at least 1", remedy="5 is usual.")
        without = [i for i, sentence in enumerate(self.sentences, start=1) if MASK not in sentence]
        if without or not self.sentences:
            what = f"sentence {without[0]} has no {MASK}" if without else "there is no sentence"
            raise ConfigError(what, remedy=f'Write {MASK} where a word is to be found: "The patient was given {MASK}."')
