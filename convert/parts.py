"""What every reader of a format gives and every writer takes: the model's tensors under native names, and all that goes with them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from biolm.model.config import EncoderConfig

Kind = Literal["native", "hf", "fairseq"]


@dataclass(frozen=True)
class Parts:
    """A checkpoint in native terms.

    Args:
        kind: The format that it was read from.
        config: The encoder's shape.
        tensors: Exactly the names of `MaskedLM(config).state_dict()`, in the dtype of the file.
        rest: Tensors that the native model does not have, under neutral names (see `convert.names`).
        weights: The file (of several, the first) that the tensors were read from.
        tokenizer_dir: A tokenizer folder in Hugging Face's form, if there is one.
        facts: What else is known, as JSON: training settings, labels of classification heads, the dtype.
    """

    kind: Kind
    config: EncoderConfig
    tensors: dict[str, Tensor]
    weights: Path
    rest: dict[str, Tensor] = field(default_factory=dict)
    tokenizer_dir: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
