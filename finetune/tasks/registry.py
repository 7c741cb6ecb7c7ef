"""From a configuration, or from what a run folder says of itself, to the task."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from biomlm.convert.load import Loaded
from biomlm.core.errors import ConfigError, DataError, MismatchError
from biomlm.finetune.config import FinetuneConfig
from biomlm.finetune.data.readers.columns import letters_of
from biomlm.finetune.data.schema import TAGGING
from biomlm.finetune.data.words import Cutting, learn_cutting
from biomlm.finetune.tasks.base import Task
from biomlm.finetune.tasks.text_classification import Choice, Classification, MultiLabel, Similarity
from biomlm.finetune.tasks.token_classification import Ner, Pico, labels_of
from biomlm.tokenizer.formats import folder as tokenizer_folder
from biomlm.tokenizer.formats.folder import Tokenizer

LONGEST = 512
EXTRA = ("segments", "negative", "crf", "unseen", "texts")  # fields of some tasks that prediction or comparison needs
CUTTING = "cutting"
SHORTEST = 16  # a window with room for a pair's special tokens and some text


def make_task(
    config: FinetuneConfig, loaded: Loaded, train: Sequence[Any], unseen: tuple[str, ...] = ()
) -> Task[Any, Any]:
    """Make the task of a run.

    Args:
        config: Of the run.
        loaded: The model: its tokenizer and longest sequence.
        train: The training fold, which the labels are taken from.
        unseen: Labels of the other folds that it lacks.

    Raises:
        ConfigError: Windows too short, or their overlap leaves nothing of them.
        DataError: The model has no tokenizer, or there is nothing to tell apart.
        MismatchError: Windows longer than the model reads, or more layers to freeze than it has.
    """
    length = config.batch.max_length or min(LONGEST, loaded.config.max_positions)
    if length > loaded.config.max_positions:
        problem = f"the model reads {loaded.config.max_positions} tokens, a window has {length}"
        raise MismatchError(problem, file=config.model, remedy="Lower --batch.max_length.")
    overlap = length // 4 if config.batch.overlap is None else config.batch.overlap
    if overlap >= length - 2 or length < SHORTEST:
        problem = f"windows of {length} tokens cannot share {overlap}, or are shorter than {SHORTEST}"
        raise ConfigError(problem, remedy="Raise --batch.max_length or lower --batch.overlap.")
    layers, touched = loaded.config.num_hidden_layers, config.freeze_layers + config.reinit_layers
    if touched > layers:
        problem = f"the model has {layers} layers, fewer than the {touched} to freeze or to draw anew"
        raise MismatchError(problem, file=config.model, remedy="Lower --freeze_layers or --reinit_layers.")
    labels = _labels(config, train)
    tagging = config.task in TAGGING
    extra: dict[str, Any] = {"unseen": unseen}
    if tagging:
        extra |= {"crf": config.crf, "cutting": learn_cutting(train)}
    else:
        extra |= {"segments": loaded.config.type_vocab_size > 1, "texts": len(train[0].texts)}
    if config.task == "relation":
        extra["negative"] = config.negative
    if config.class_weights:
        counts = Counter(record.labels[0] for record in train)
        extra["weights"] = tuple(len(train) / (len(labels) * counts[label]) for label in labels)
    if config.negative and config.negative not in labels:
        remedy = f"Labels are {', '.join(labels)}."
        raise ConfigError(f"--negative {config.negative} is no label of the training fold", remedy=remedy)
    return _task(config.task, load_tokenizer(loaded), labels, length, overlap, extra)


def _labels(config: FinetuneConfig, train: Sequence[Any]) -> tuple[str, ...]:
    if config.task in TAGGING:
        return labels_of(train)
    if config.task == "similarity":
        return ("value",)
    if config.task == "choice":
        return letters_of(len(train[0].texts) - 1)
    labels = tuple(sorted({label for record in train for label in record.labels}))
    if len(labels) < 2 and config.task != "multilabel":
        remedy = "There is nothing to learn; name the column of the labels with --columns.label."
        raise DataError("all training records have the same label", file=config.data, remedy=remedy)
    return labels


def facts(task: Task[Any, Any], name: str) -> dict[str, Any]:
    """Return what `restore_task` needs: the name on the command line and the sizes."""
    stated = {"task": name, "labels": list(task.labels), "max_length": task.max_length, "overlap": task.overlap}
    stated |= {key: getattr(task, key) for key in EXTRA if hasattr(task, key)}
    cutting = getattr(task, "cutting", None)
    return stated | ({CUTTING: asdict(cutting)} if cutting else {})


def restore_task(saved: Mapping[str, Any], tokenizer: Tokenizer) -> Task[Any, Any]:
    """Restore the task of a fine-tuned model from its `facts`."""
    extra = {key: saved[key] for key in EXTRA if key in saved}
    if CUTTING in saved:
        extra[CUTTING] = Cutting(**saved[CUTTING])
    return _task(saved["task"], tokenizer, tuple(saved["labels"]), saved["max_length"], saved["overlap"], extra)


def _task(
    name: str, tokenizer: Tokenizer, labels: tuple[str, ...], length: int, overlap: int, extra: Mapping[str, Any]
) -> Task[Any, Any]:
    kinds: dict[str, Any] = {
        "ner": Ner,
        "pico": Pico,
        "classification": Classification,
        "relation": Classification,
        "multilabel": MultiLabel,
        "similarity": Similarity,
        "choice": Choice,
    }
    task: Task[Any, Any] = kinds[name](tokenizer, labels, length, overlap, **extra)
    return task


def load_tokenizer(loaded: Loaded) -> Tokenizer:
    """Load the tokenizer beside a model.

    Raises:
        DataError: There is none.
    """
    if loaded.tokenizer_dir is None:
        problem = "this model has no tokenizer"
        raise DataError(problem, file=loaded.source, remedy="Put its tokenizer's files beside it.")
    return tokenizer_folder.load(loaded.tokenizer_dir)
