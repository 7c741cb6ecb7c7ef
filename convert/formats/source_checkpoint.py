"""What every reader of a format gives and every writer takes: the model's tensors under native names, and all that goes with them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from biomlm.convert.formats.hf_cutting import cut_as_trained
from biomlm.convert.names.heads import head_facts
from biomlm.core.errors import CheckpointError
from biomlm.model.config import EncoderConfig
from biomlm.tokenizer.encoding.cutting import Cutting
from biomlm.tokenizer.formats.folder import Tokenizer

TokenRule = Callable[[Sequence[str]], list[list[int]]]  # texts → the ids of each, without special tokens around them
MOST_LAYERS = 1000  # a configuration that asks for more was not written by a training


def sane(config: EncoderConfig, file: Path) -> EncoderConfig:
    """Return the same configuration if a model can have it; a file from outside may say anything.

    Raises:
        CheckpointError: A size is no positive number, or a rate is none.
    """
    sizes = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_positions",
    )
    wrong = [name for name in sizes if type(getattr(config, name)) is not int or getattr(config, name) < 1]
    wrong += [name for name in ("hidden_dropout", "attention_dropout") if not _within(getattr(config, name), 0, 0.999)]
    wrong += [name for name in ("layer_norm_eps", "initializer_range") if not _within(getattr(config, name), 0, 1)]
    wrong += ["type_vocab_size"] * (type(config.type_vocab_size) is not int or config.type_vocab_size < 0)
    wrong += ["num_hidden_layers"] * (not wrong and config.num_hidden_layers > MOST_LAYERS)
    wrong += ["pad_token_id"] * (not wrong and not _within(config.pad_token_id, 0, config.vocab_size - 1))
    if wrong:
        raise CheckpointError(
            f"{wrong[0]} is {getattr(config, wrong[0])!r}, which no model has", file=file, remedy="Get the file again."
        )
    return config


def _within(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high


@dataclass(frozen=True)
class SourceCheckpoint:
    """A checkpoint in native terms.

    Args:
        kind: The name of the format that it was read from (`convert.formats.registry`).
        config: The encoder's shape.
        tensors: Exactly the names of `MaskedLM(config).state_dict()`, in the dtype of the file; without those of `head.` if there is none.
        extra_tensors: Tensors that the native model does not have, under neutral names (see `convert.names.table`).
        weights: The file (of several, the first) that the tensors were read from.
        tokenizer_dir: A tokenizer folder in Hugging Face's form, if there is one.
        tokenizer: The tokenizer in that folder, if it has been loaded already; loading a large one takes a second.
        token_rule: Gives texts' ids by the source's own rules, without the code that reads `tokenizer_dir`; None if there is no other.
        averaged: The same with the running mean (EMA) of the weights that the checkpoint holds beside them; None if it holds none.
        facts: What else is known, as JSON: training settings, labels of classification heads, the dtype.
        has_head: Whether there is a masked-LM head; an encoder alone, or one with a classifier, has none.
    """

    kind: str
    config: EncoderConfig
    tensors: Mapping[str, Tensor]
    weights: Path
    extra_tensors: dict[str, Tensor] = field(default_factory=dict)
    tokenizer_dir: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    has_head: bool = True
    tokenizer: Tokenizer | None = None
    token_rule: TokenRule | None = None
    averaged: "Callable[[], SourceCheckpoint] | None" = None

    @property
    def head_facts(self) -> dict[str, Any]:
        """What `biomlm finetune` says of its head (see `convert.names.heads`)."""
        return head_facts(self.facts)

    @property
    def cutting(self) -> Cutting | None:
        """How the words that it labels are cut from a text; None if it labels none, or does not say."""
        trained = self.facts.get("finetune")
        rule = trained.get("cutting") if isinstance(trained, dict) else None
        return Cutting(**rule) if isinstance(rule, dict) else None

    @property
    def word_state(self) -> dict[str, Any] | None:
        """The content of a `tokenizer.json` that cuts text as its training words were cut; None if it labels no words, or cannot."""
        return cut_as_trained(self.tokenizer.state, self.cutting) if self.tokenizer and self.cutting else None

    @property
    def reads_words(self) -> bool:
        """Whether it labels words that are read otherwise than the same text: cut by a rule of their own, or the first too with a blank in
        front, which byte-level BPE distinguishes from one without.
        """
        if self.word_state:
            return True
        split = (self.tokenizer.state["pre_tokenizer"] or {}) if self.tokenizer else {}
        return bool(self.head_facts.get("reads_words")) and split.get("type") == "ByteLevel"
