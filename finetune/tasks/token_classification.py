"""Named entities: one label a word, on its first piece; the other pieces give context."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from biomlm.convert.load import Loaded
from biomlm.core.errors import ConfigError
from biomlm.finetune.comparison import errors
from biomlm.finetune.config import FinetuneConfig
from biomlm.finetune.data.dataset import DataSet, read_tagged
from biomlm.finetune.data.iob_tags import UNTYPED, Span, entities, tag_type
from biomlm.finetune.data.labelling import TAGS
from biomlm.finetune.data.readers.iob import sentence
from biomlm.finetune.data.records import Tagged
from biomlm.finetune.data.unlabelled import Text
from biomlm.finetune.data.words import learn_cutting
from biomlm.finetune.metrics.entities import EntityScorer, TokenScorer
from biomlm.finetune.tasks.base import NO_TARGET, G, count_unseen
from biomlm.finetune.tasks.crf import CrfClassifier, negative_log_likelihood
from biomlm.finetune.tasks.examples import Example
from biomlm.finetune.tasks.heads import TokenClassifier
from biomlm.finetune.tasks.windows import windows
from biomlm.model.encoder import MaskedLM
from biomlm.tokenizer.encoding.cutting import Cutting, with_blank
from biomlm.tokenizer.formats.folder import Tokenizer


def labels_of(records: Sequence[Tagged]) -> tuple[str, ...]:
    """List `O`, then `B-` and `I-` of each type that occurs: an `I-` the training fold happens to lack can still be predicted."""
    types = sorted({tag_type(tag) for record in records for tag in record.tags} - {""})
    suffixes = ["" if kind == UNTYPED else f"-{kind}" for kind in types]
    return ("O", *(f"{letter}{suffix}" for suffix in suffixes for letter in "BI"))


CUTTING_UNKNOWN = "this model does not say how its training words were cut: words are cut at every mark and read as they stand in the text"


@dataclass(frozen=True)
class Tagger:
    """What tasks with a label a word share (see `biomlm.finetune.tasks.base`).

    Args:
        tokenizer: The model's.
        labels: Tags, from `labels_of` the training fold.
        max_length: Tokens in a window, special ones included.
        overlap: Tokens that windows share.
        crf: Whether the labels of neighbouring words depend on each other.
        unseen: Types of the other folds that the training fold lacks; they are never predicted and score as missed.
        cutting: How the training fold's words are cut; None if the model does not say, as older ones.
    """

    tokenizer: Tokenizer
    labels: tuple[str, ...]
    max_length: int
    overlap: int
    crf: bool = False
    unseen: tuple[str, ...] = ()
    cutting: Cutting | None = None

    labelling: ClassVar = TAGS
    error_analysis: ClassVar = errors.ENTITIES
    formats: ClassVar[tuple[str, ...]] = ("jsonl",)
    head_facts: ClassVar = {"head": "tokens", "reads_words": True}

    @classmethod
    def read(cls, folder: Path, config: FinetuneConfig) -> DataSet:
        """See `Task`."""
        return read_tagged(folder, config)

    @classmethod
    def check(cls, data: DataSet, config: FinetuneConfig) -> None:
        """See `Task`: the readers of tags have checked all."""

    @classmethod
    def learn_labels(cls, train: Sequence[Tagged], config: FinetuneConfig) -> tuple[str, ...]:  # noqa: ARG003
        """See `Task`."""
        return labels_of(train)

    @classmethod
    def learn_fields(
        cls,
        train: Sequence[Tagged],
        labels: tuple[str, ...],  # noqa: ARG003
        loaded: Loaded,  # noqa: ARG003
        config: FinetuneConfig,
    ) -> dict[str, Any]:
        """See `Task`."""
        return {"crf": config.crf, "cutting": learn_cutting(train)}

    @classmethod
    def from_facts(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """See `Task`."""
        return {**fields, "cutting": Cutting(**fields["cutting"]) if "cutting" in fields else None}

    @property
    def caveat(self) -> str:
        """See `Task`."""
        return "" if self.cutting else CUTTING_UNKNOWN

    @property
    def word_rule(self) -> str:
        """See `Task`."""
        return str(self.cutting or Cutting())

    @property
    def types(self) -> tuple[str, ...]:
        """What is scored: the types of the labels, and those unseen in training."""
        return (*sorted({tag_type(tag) for tag in self.labels} - {""}), *self.unseen)

    def examples(self, records: Sequence[Tagged]) -> list[list[Example]]:
        """See `Task`; targets are indices of `labels`."""
        apart = self.cutting is not None and self.cutting.apart
        words = [[with_blank(record.text, *word, apart=apart) for word in record.words] for record in records]
        unique = sorted({word for row in words for word in row})
        pieces = dict(zip(unique, self.tokenizer.encode_batch(unique), strict=True))
        index = {label: i for i, label in enumerate(self.labels)}
        return [
            self._windows([pieces[word] for word in row], [index.get(tag, NO_TARGET) for tag in record.tags])
            for row, record in zip(words, records, strict=True)
        ]

    def _windows(self, words: Sequence[Sequence[int]], targets: Sequence[int]) -> list[Example]:
        """Build the windows of one record that own a word's first piece; together they own each once."""
        ids: list[int] = []
        firsts: list[int] = []
        for word in words:
            firsts.append(len(ids))
            ids += word or [self.tokenizer.ids.unk]  # a word that the tokenizer drops is labelled all the same
        special = self.tokenizer.ids
        examples = []
        for start, stop, own_start, own_stop in windows(len(ids), self.max_length - 2, self.overlap):
            own = [i for i, first in enumerate(firsts) if own_start <= first < own_stop]
            if own:
                positions = [firsts[i] - start + 1 for i in own]
                examples.append(
                    Example([[special.bos, *ids[start:stop], special.eos]], positions, [targets[i] for i in own])
                )
        assert sum(len(example.targets) for example in examples) == len(words), "a word lost its label"
        return examples

    def head(self, lm: MaskedLM) -> TokenClassifier:
        """See `Task`."""
        return (CrfClassifier if self.crf else TokenClassifier)(lm, len(self.labels))

    def loss(self, outputs_mk: Tensor, targets_m: Tensor) -> Tensor:
        """Compute cross-entropy of words, or of whole rows for a CRF, summed."""
        if self.crf:
            return negative_log_likelihood(outputs_mk, targets_m)
        return F.cross_entropy(outputs_mk.float(), targets_m, reduction="sum")

    def unlabelled(self, name: str, texts: Sequence[Text], line: int) -> Tagged:
        """Make a record of a text, cut into words as the training fold's are, or of words that are cut already.

        Raises:
            ConfigError: There are several texts, or words for a model that learnt from running text.
        """
        if len(texts) != 1:
            raise ConfigError("entities are found in one text", remedy="Name one key with --text.")
        cutting, (text,) = self.cutting or Cutting(), texts
        if isinstance(text, str):
            words = tuple(cutting.words(text))
            return Tagged(name, text, words, ("O",) * len(words), line=line)
        if not cutting.apart:
            problem = "the model learnt from running text, and these are words without their text"
            raise ConfigError(problem, remedy="Give the text itself; of JSON lines name its key with --text.")
        return sentence(name, text, ("O",) * len(text), line)

    def counts(self, records: Sequence[Tagged]) -> dict[str, int]:
        """Count records, words and entities."""
        spans = [span for record in records for span in record.spans]
        return {
            "records": len(records),
            "words": sum(len(record.words) for record in records),
            "entities": len(spans),
            **count_unseen([span.type for span in spans], self.unseen),
        }

    def units(self, records: Sequence[Tagged], values: Sequence[G]) -> Sequence[G]:  # noqa: ARG002
        """Return the values: every record is scored by itself."""
        return values


@dataclass(frozen=True)
class Ner(Tagger):
    """Entities, scored strictly."""

    formats: ClassVar[tuple[str, ...]] = ("jsonl", "brat", "pubtator")

    @cached_property
    def scorer(self) -> EntityScorer:
        """Strict entity F1."""
        return EntityScorer(self.types, unseen=self.unseen)

    def gold(self, record: Tagged) -> list[Span]:
        """Return the entities, in words."""
        return record.spans

    def decode(self, outputs_mk: Tensor) -> list[Span]:
        """Return the entities of the likeliest tags, in words."""
        return entities([self.labels[i] for i in outputs_mk.argmax(-1).tolist()])

    def json_fields(self, record: Tagged, labels: list[Span]) -> dict[str, Any]:
        """Return the entities with offsets in characters of the record's text."""
        return {"entities": [span._asdict() for span in record.characters(labels)]}


@dataclass(frozen=True)
class Pico(Tagger):
    """Types of words, as for PICO elements: the score is the macro F1 over words."""

    @cached_property
    def scorer(self) -> TokenScorer:
        """Macro F1 over words."""
        return TokenScorer(self.types, unseen=self.unseen)

    def gold(self, record: Tagged) -> list[str]:
        """Return each word's type."""
        return [tag_type(tag) for tag in record.tags]

    def decode(self, outputs_mk: Tensor) -> list[str]:
        """Return each word's likeliest type."""
        return [tag_type(self.labels[i]) for i in outputs_mk.argmax(-1).tolist()]

    def json_fields(self, record: Tagged, labels: list[str]) -> dict[str, Any]:
        """Return runs of words of one type, with offsets in characters of the record's text."""
        runs = entities(["O" if kind == "" else f"I-{kind}" for kind in labels])
        return {"entities": [span._asdict() for span in record.characters(runs)]}
