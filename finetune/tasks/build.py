"""From a configuration, or from what a run folder says of itself, to the task."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from biomlm.convert.load import Loaded
from biomlm.core.errors import ConfigError, DataError, MismatchError
from biomlm.finetune.config import FinetuneConfig
from biomlm.finetune.tasks.base import Task
from biomlm.finetune.tasks.registry import TASKS
from biomlm.tokenizer.formats import folder as tokenizer_folder
from biomlm.tokenizer.formats.folder import Tokenizer

LONGEST = 512
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
    cls = TASKS[config.task].task
    labels = cls.learn_labels(train, config)
    task: Task[Any, Any] = cls(
        tokenizer=load_tokenizer(loaded),
        labels=labels,
        max_length=length,
        overlap=overlap,
        unseen=unseen,
        **cls.learn_fields(train, labels, loaded, config),
    )
    return task


def facts(task: Any, name: str) -> dict[str, Any]:
    """Return what `restore_task` needs and what `convert` must know of the head.

    Args:
        task: A `Task`.
        name: Its name on the command line.
    """
    stated = {f.name: getattr(task, f.name) for f in fields(task) if f.metadata.get("saved", f.name != "tokenizer")}
    plain = {key: asdict(value) if is_dataclass(value) else value for key, value in stated.items()}  # type: ignore[arg-type]
    return {"task": name, **{key: value for key, value in plain.items() if value is not None}, **task.head_facts}


def restore_task(saved: Mapping[str, Any], tokenizer: Tokenizer) -> Task[Any, Any]:
    """Restore the task of a fine-tuned model from its `facts`."""
    cls = TASKS[saved["task"]].task
    names = {f.name for f in fields(cls)} & saved.keys()
    task: Task[Any, Any] = cls(tokenizer=tokenizer, **cls.from_facts({name: saved[name] for name in names}))
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
