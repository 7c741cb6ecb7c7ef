"""Tasks that say something of a whole text, of a pair of texts, or of a question and its choices."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biomlm.convert.load import Loaded
from biomlm.core.errors import ConfigError, DataError
from biomlm.finetune.comparison import errors
from biomlm.finetune.comparison.errors import ErrorAnalysis
from biomlm.finetune.config import FinetuneConfig
from biomlm.finetune.data.dataset import DataSet, check_choices, check_numbers, read_labelled
from biomlm.finetune.data.labelling import CHOICE, CLASS, CLASSES, NUMBER, RELATION, Labelling, letters_of
from biomlm.finetune.data.records import Labelled
from biomlm.finetune.data.unlabelled import Text
from biomlm.finetune.metrics.labels import Labels, LabelScorer, PearsonScorer
from biomlm.finetune.tasks.base import NO_TARGET, G, count_unseen
from biomlm.finetune.tasks.examples import Example
from biomlm.finetune.tasks.heads import sequence_classifier
from biomlm.finetune.tasks.inputs import pair_windows, segment_ids, text_windows
from biomlm.model.encoder import MaskedLM
from biomlm.tokenizer.formats.folder import Tokenizer


@dataclass(frozen=True)
class TextTask(ABC):
    """What the tasks on whole texts share.

    Args:
        tokenizer: The model's.
        labels: The head's outputs.
        max_length: Tokens in a window, special ones included.
        overlap: Tokens that windows share.
        segments: Whether the model tells the two texts of a pair apart by segment ids.
        unseen: Labels of the other folds that the training fold lacks; they are never predicted and score as missed.
        texts: How many texts a record has: 1, 2 for a pair, or a question and its choices.
    """

    tokenizer: Tokenizer
    labels: tuple[str, ...]
    max_length: int
    overlap: int
    segments: bool = False
    unseen: tuple[str, ...] = ()
    texts: int = 1

    labelling: ClassVar[Labelling]
    error_analysis: ClassVar[ErrorAnalysis | None] = errors.LABELS
    formats: ClassVar[tuple[str, ...]] = ("jsonl",)
    head_facts: ClassVar[Mapping[str, Any]] = {}
    caveat: ClassVar = ""
    word_rule: ClassVar = ""

    @classmethod
    def read(cls, folder: Path, config: FinetuneConfig) -> DataSet:
        """See `Task`."""
        return read_labelled(folder, config, cls.labelling)

    @classmethod
    def check(cls, data: DataSet, config: FinetuneConfig) -> None:
        """See `Task`."""
        check_numbers(data, cls.labelling, config.task)

    @classmethod
    def learn_labels(cls, train: Sequence[Labelled], config: FinetuneConfig) -> tuple[str, ...]:  # noqa: ARG003
        """See `Task`."""
        return tuple(sorted({label for record in train for label in record.labels}))

    @classmethod
    def learn_fields(
        cls,
        train: Sequence[Labelled],
        labels: tuple[str, ...],  # noqa: ARG003
        loaded: Loaded,
        config: FinetuneConfig,  # noqa: ARG003
    ) -> dict[str, Any]:
        """See `Task`."""
        return {"segments": loaded.config.type_vocab_size > 1, "texts": len(train[0].texts)}

    @classmethod
    def from_facts(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """See `Task`."""
        return dict(fields)

    def head(self, lm: MaskedLM) -> nn.Module:
        """See `Task`."""
        return sequence_classifier(lm, len(self.labels))

    def counts(self, records: Sequence[Labelled]) -> dict[str, int]:
        """See `Task`."""
        labels = [label for record in records for label in record.labels]
        return {"records": len(records), **dict(sorted(Counter(labels).items())), **count_unseen(labels, self.unseen)}

    def examples(self, records: Sequence[Labelled]) -> list[list[Example]]:
        """Build one example a window; each has the record's target."""
        return [
            [Example([ids], [0], [self.target(r)], self.segments_of([ids])) for ids in self.sequences(r.texts)]
            for r in records
        ]

    def segments_of(self, sequences: Sequence[list[int]]) -> list[list[int]]:
        """Return segment ids of each sequence, for a model that has them."""
        return [segment_ids(ids, self.tokenizer.ids.eos) for ids in sequences] if self.segments else []

    def sequences(self, texts: Sequence[str]) -> list[list[int]]:
        """Cut a text or a pair into windows."""
        ids = [self.tokenizer.encode(text) for text in texts]
        if len(ids) == 1:
            return text_windows(ids[0], self.tokenizer.ids, self.max_length, self.overlap)
        sizes = {"max_length": self.max_length, "overlap": self.overlap}
        return pair_windows(ids[0], ids[1], self.tokenizer.ids, **sizes, segments=self.segments)

    def units(self, records: Sequence[Labelled], values: Sequence[G]) -> Sequence[G]:  # noqa: ARG002
        """Return the values: every record is scored by itself."""
        return values

    def json_fields(self, record: Labelled, labels: Any) -> dict[str, Any]:  # noqa: ARG002  labels of a whole text need no offsets
        """See `Task`."""
        return self.as_json(labels)

    def unlabelled(self, name: str, texts: Sequence[Text], line: int) -> Labelled:
        """Make a record to predict; its label has no meaning.

        Raises:
            ConfigError: Too many or too few texts, or words instead of a text.
        """
        if len(texts) != self.texts:
            problem = f"the model was trained on {self.texts} text{'s' * (self.texts > 1)} a record, not {len(texts)}"
            raise ConfigError(problem, remedy="Name the keys of all of them with --text, in the order of training.")
        whole = tuple(text for text in texts if isinstance(text, str))
        if len(whole) < len(texts):
            raise ConfigError("the model learnt from texts, and these are words", remedy="Name the key of the text.")
        return Labelled(name, whole, self.labels[:1], line=line)

    @abstractmethod
    def as_json(self, labels: Any) -> dict[str, Any]:
        """Return gold or prediction as JSON."""

    @abstractmethod
    def target(self, record: Labelled) -> Any:
        """Return what the head should output for the record."""


@dataclass(frozen=True)
class Classification(TextTask):
    """One label a record: sentences, pairs (NLI), yes/no/maybe questions.

    Args:
        weights: What each label's loss is multiplied by; empty for 1.
    """

    weights: tuple[float, ...] = field(default=(), metadata={"saved": False})

    labelling: ClassVar = CLASS
    head_facts: ClassVar = {"head": "sequence", "problem_type": "single_label_classification"}

    @classmethod
    def learn_labels(cls, train: Sequence[Labelled], config: FinetuneConfig) -> tuple[str, ...]:
        """See `Task`.

        Raises:
            DataError: There is nothing to tell apart.
        """
        labels = super().learn_labels(train, config)
        if len(labels) < 2:
            remedy = "There is nothing to learn; name the column of the labels with --columns.label."
            raise DataError("all training records have the same label", file=config.data, remedy=remedy)
        return labels

    @classmethod
    def learn_fields(
        cls, train: Sequence[Labelled], labels: tuple[str, ...], loaded: Loaded, config: FinetuneConfig
    ) -> dict[str, Any]:
        """See `Task`."""
        learnt = super().learn_fields(train, labels, loaded, config)
        if config.class_weights:
            counts = Counter(record.labels[0] for record in train)
            learnt["weights"] = tuple(len(train) / (len(labels) * counts[label]) for label in labels)
        return learnt

    @cached_property
    def scorer(self) -> LabelScorer:
        """Accuracy."""
        return LabelScorer((*self.labels, *self.unseen), "accuracy", unseen=self.unseen)

    def target(self, record: Labelled) -> int:
        """Return the label's number."""
        return self.labels.index(record.labels[0]) if record.labels[0] in self.labels else NO_TARGET

    def loss(self, outputs_mk: Tensor, targets_m: Tensor) -> Tensor:
        """Compute cross-entropy, weighted and summed."""
        weight_k = outputs_mk.new_tensor(self.weights, dtype=torch.float32) if self.weights else None
        return F.cross_entropy(outputs_mk.float(), targets_m, weight_k, reduction="sum")

    def gold(self, record: Labelled) -> Labels:
        """Return the label."""
        return frozenset(record.labels)

    def decode(self, outputs_mk: Tensor) -> Labels:
        """Return the likeliest label, over all windows."""
        return frozenset([self.labels[int(outputs_mk.mean(0).argmax())]])

    def as_json(self, labels: Labels) -> dict[str, Any]:
        """Return the label."""
        return {"label": min(labels)}


@dataclass(frozen=True)
class Relation(Classification):
    """One label for a pair of entities, of which one says that there is no relation.

    Args:
        negative: That label; it is left out of F1.
    """

    negative: str = ""

    labelling: ClassVar = RELATION

    @classmethod
    def learn_fields(
        cls, train: Sequence[Labelled], labels: tuple[str, ...], loaded: Loaded, config: FinetuneConfig
    ) -> dict[str, Any]:
        """See `Task`.

        Raises:
            ConfigError: No record has the negative label.
        """
        if config.negative not in labels:
            remedy = f"Labels are {', '.join(labels)}."
            raise ConfigError(f"--negative {config.negative} is no label of the training fold", remedy=remedy)
        return {**super().learn_fields(train, labels, loaded, config), "negative": config.negative}

    @cached_property
    def scorer(self) -> LabelScorer:
        """Micro F1 without the negative class."""
        return LabelScorer((*self.labels, *self.unseen), "f1", self.negative, self.unseen)


@dataclass(frozen=True)
class MultiLabel(TextTask):
    """Any number of labels a record; sentences of one document are scored together, with all their labels (as HoC is)."""

    labelling: ClassVar = CLASSES
    head_facts: ClassVar = {"head": "sequence", "problem_type": "multi_label_classification"}

    @cached_property
    def scorer(self) -> LabelScorer:
        """Micro F1."""
        return LabelScorer((*self.labels, *self.unseen), "f1", unseen=self.unseen)

    def target(self, record: Labelled) -> list[float]:
        """Return a one for each label that it has, a zero for each other."""
        return [float(label in record.labels) for label in self.labels]

    def units(self, records: Sequence[Labelled], values: Sequence[Any]) -> Sequence[Any]:
        """Join the labels of each document, or of each record that names none."""
        of_document: dict[str, Labels] = {}
        for record, labels in zip(records, values, strict=True):
            name = record.document or record.id
            of_document[name] = of_document.get(name, frozenset()) | labels
        return list(of_document.values())

    def loss(self, outputs_mk: Tensor, targets_mk: Tensor) -> Tensor:
        """Compute binary cross-entropy, summed over records and averaged over labels."""
        return F.binary_cross_entropy_with_logits(outputs_mk.float(), targets_mk, reduction="none").mean(-1).sum()

    def gold(self, record: Labelled) -> Labels:
        """Return the labels."""
        return frozenset(record.labels)

    def decode(self, outputs_mk: Tensor) -> Labels:
        """Return every label that any window finds likelier than not."""
        likely = (outputs_mk.amax(0) > 0).tolist()
        return frozenset(label for label, yes in zip(self.labels, likely, strict=True) if yes)

    def as_json(self, labels: Labels) -> dict[str, Any]:
        """Return the labels."""
        return {"labels": sorted(labels)}


@dataclass(frozen=True)
class Similarity(TextTask):
    """A number for a pair of texts."""

    labelling: ClassVar = NUMBER
    error_analysis: ClassVar = None
    head_facts: ClassVar = {"head": "sequence", "problem_type": "regression"}

    @classmethod
    def learn_labels(cls, train: Sequence[Labelled], config: FinetuneConfig) -> tuple[str, ...]:  # noqa: ARG003
        """See `Task`: the one output has a name as well."""
        return ("value",)

    @property
    def scorer(self) -> PearsonScorer:
        """Pearson's correlation."""
        return PearsonScorer()

    def target(self, record: Labelled) -> list[float]:
        """Return the number."""
        return [record.value]

    def loss(self, outputs_m1: Tensor, targets_m1: Tensor) -> Tensor:
        """Compute the squared error, summed."""
        return F.mse_loss(outputs_m1.float(), targets_m1, reduction="sum")

    def gold(self, record: Labelled) -> float:
        """Return the number."""
        return record.value

    def decode(self, outputs_m1: Tensor) -> float:
        """Return the mean over windows."""
        return float(outputs_m1.mean())

    def as_json(self, labels: float) -> dict[str, Any]:
        """Return the number."""
        return {"value": labels}


@dataclass(frozen=True)
class Choice(TextTask):
    """Multiple choice: one output for each pair of question and choice, compared within the question."""

    labelling: ClassVar = CHOICE
    head_facts: ClassVar = {"head": "multiple_choice"}

    @classmethod
    def check(cls, data: DataSet, config: FinetuneConfig) -> None:
        """See `Task`."""
        super().check(data, config)
        check_choices(data)

    @classmethod
    def learn_labels(cls, train: Sequence[Labelled], config: FinetuneConfig) -> tuple[str, ...]:  # noqa: ARG003
        """See `Task`: the letters of the choices."""
        return letters_of(len(train[0].texts) - 1)

    @cached_property
    def scorer(self) -> LabelScorer:
        """Accuracy; labels are the choices' letters."""
        return LabelScorer(self.labels, "accuracy")

    def head(self, lm: MaskedLM) -> nn.Module:
        """Build a head with one output a sequence."""
        return sequence_classifier(lm, 1)

    def examples(self, records: Sequence[Labelled]) -> list[list[Example]]:
        """Build one example a window of the question, with a sequence for each choice."""
        return [self._question(record) for record in records]

    def target(self, record: Labelled) -> int:
        """Return the right choice's number."""
        return self.labels.index(record.labels[0])

    def _question(self, record: Labelled) -> list[Example]:
        question, *choices = record.texts
        # choices of unlike length leave the question unlike room: windows are matched up, the last one of the shorter list repeats
        cut = [self.sequences((question, choice)) for choice in choices]
        right = self.target(record)
        examples = []
        for i in range(max(map(len, cut))):
            sequences = [windows[min(i, len(windows) - 1)] for windows in cut]
            starts = [sum(len(ids) for ids in sequences[:n]) for n in range(len(sequences))]
            targets = [int(n == right) for n in range(len(sequences))]
            examples.append(Example(sequences, starts, targets, self.segments_of(sequences)))
        return examples

    def loss(self, outputs_m1: Tensor, targets_m: Tensor) -> Tensor:
        """Compute cross-entropy over each question's choices, summed; every sequence counts, so that it is an average over questions."""
        scores_qc = outputs_m1.float().view(-1, len(self.labels))
        return F.cross_entropy(scores_qc, targets_m.view_as(scores_qc).argmax(-1), reduction="sum") * len(self.labels)

    def gold(self, record: Labelled) -> Labels:
        """Return the right choice's letter."""
        return frozenset(record.labels)

    def decode(self, outputs_m1: Tensor) -> Labels:
        """Return the choice with the highest output, over all windows."""
        scores_c = outputs_m1.view(-1, len(self.labels)).mean(0)
        return frozenset([self.labels[int(torch.argmax(scores_c))]])

    def as_json(self, labels: Labels) -> dict[str, Any]:
        """Return the chosen letter."""
        return {"label": min(labels)}
