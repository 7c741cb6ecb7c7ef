"""Tasks that say something of a whole text, of a pair of texts, or of a question and its choices."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biomlm.core.errors import ConfigError
from biomlm.finetune.data.records import Labelled
from biomlm.finetune.metrics.labels import Labels, LabelScorer, PearsonScorer
from biomlm.finetune.tasks.base import NO_TARGET, G, Text, count_unseen
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
        return pair_windows(ids[0], ids[1], self.tokenizer.ids, self.max_length, self.overlap, segments=self.segments)

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
    """One label a record: sentences, pairs (NLI), yes/no/maybe questions, relations.

    Args:
        negative: For relations the label that is left out of F1; empty where accuracy is the score.
        weights: What each label's loss is multiplied by; empty for 1.
    """

    negative: str = ""
    weights: tuple[float, ...] = ()

    @cached_property
    def scorer(self) -> LabelScorer:
        """Accuracy, or micro F1 without the negative class."""
        metric = "f1" if self.negative else "accuracy"
        return LabelScorer((*self.labels, *self.unseen), metric, self.negative, self.unseen)

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
class MultiLabel(TextTask):
    """Any number of labels a record; sentences of one document are scored together, with all their labels (as HoC is)."""

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
