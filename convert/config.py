"""The configurations of `biomlm convert` and its verbs, in a module without torch: `--help` reads it."""

import re
from dataclasses import dataclass, field
from pathlib import Path
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
        more: Further sources; DST is a folder then, in which each one gets a folder of its own name.
        dry_run: Read and say what would be written and what left out, and write nothing.
        override: Replace an earlier conversion at DST.
    """

    src: str
    dst: str
    to: Kind
    dtype: Literal["source", "float32", "float16", "bfloat16"] = "source"
    rows: Literal["keep", "cut"] = "keep"
    weights: Literal["trained", "ema"] = added("trained")
    tokenizer: str = ""
    more: list[str] = added(list)
    dry_run: bool = added(False)
    override: bool = False

    def __post_init__(self) -> None:
        names = [name_of(src) for src in (self.src, *self.more)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"two sources are named {twice}", remedy="Convert one of them by itself.")
        if self.to not in WRITTEN:
            raise ConfigError(f"--to {self.to} is no format", remedy=f"Choose one of {', '.join(WRITTEN)}.")


def name_of(src: str) -> str:
    """Return the name of a source's folder among several: its own, without the endings of an archive or a checkpoint."""
    return re.sub(r"(\.tar)?\.(gz|xz|tar|tgz|pt|bin)$", "", Path(src).resolve().name)


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
