"""The fine-tuned model in the run folder, written and read: a native model (docs/design.md) with a head.

The head stands in the group `rest`, labels and sizes in the facts. So the folder is a MODEL like any other: `convert` reads it, and
further training can start from it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from biomlm.convert.formats import native
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.load import Loaded, load_model
from biomlm.core.checkpoint import FOLDER
from biomlm.core.errors import DataError
from biomlm.finetune.tasks.base import Task
from biomlm.finetune.tasks.build import load_tokenizer, restore_task
from biomlm.model.config import NAME as ENCODER
from biomlm.tokenizer.formats import folder as tokenizer_folder

LM = "lm."
HEAD = "classification_heads."  # convert's neutral name; `classifier.weight` behind it is transformers' name as well
PREDICTION_HEAD = "prediction_head."
NEUTRAL = ("pooler.", PREDICTION_HEAD)  # what stands before the outputs has convert's neutral names already
FACT = "finetune"


def write(
    out: Path, loaded: Loaded, tensors: Mapping[str, Tensor], labels: tuple[str, ...], *, facts: dict[str, Any]
) -> None:
    """Write the model into a run folder.

    Args:
        out: The run folder.
        loaded: The model that was fine-tuned.
        tensors: The state of the task's model.
        labels: The head's outputs, in order.
        facts: What prediction must know: the task and its sizes.
    """
    # a masked-LM head that the source lacked says nothing, and one whose layers became the classifier's has been trained away
    gone = not loaded.has_head or any(name.startswith(PREDICTION_HEAD) for name in tensors)
    drawn = (LM + "head.",) if gone else ()
    source = SourceCheckpoint(
        kind="native",
        config=loaded.config,
        tensors={
            name.removeprefix(LM): t
            for name, t in tensors.items()
            if name.startswith(LM) and not name.startswith(drawn)
        },
        weights=out,
        extra_tensors={
            (name if name.startswith(NEUTRAL) else HEAD + name): t
            for name, t in tensors.items()
            if not name.startswith(LM)
        },
        facts={
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
            FACT: facts,
        },
    )
    dtype = next(iter(tensors.values())).dtype
    assert loaded.tokenizer_dir is not None
    tokenizer_folder.copy(loaded.tokenizer_dir, out / native.TOKENIZER)
    native.write(source, out, dtype)


def files(out: Path) -> list[Path]:
    """List the files that hold a run folder's model."""
    return [out / ENCODER, *sorted((out / FOLDER).rglob("*.*"))]


def read(folder: str) -> tuple[Task[Any, Any], nn.Module]:
    """Read the task and the model of a run folder.

    Raises:
        DataError: The model was not fine-tuned by `biomlm finetune`.
    """
    loaded = load_model(folder)
    facts = loaded.facts.get(FACT)
    if not isinstance(facts, dict):
        problem = "this model was not fine-tuned by `biomlm finetune`"
        raise DataError(problem, file=folder, remedy="Give a run folder of that command.")
    task = restore_task(facts, load_tokenizer(loaded))
    model = task.head(loaded.model)
    head = {
        name.removeprefix(HEAD): tensor
        for name, tensor in loaded.extra_tensors.items()
        if name.startswith((HEAD, *NEUTRAL))
    }
    lm = {LM + name: tensor for name, tensor in loaded.model.state_dict().items()}
    if lm.keys() | head.keys() != model.state_dict().keys():
        problem = f"its head is not the one that a model of shape {loaded.config.shape} is given for this task today"
        raise DataError(problem, file=folder, remedy="An earlier version trained it: fine-tune again.")
    model.load_state_dict({**lm, **head}, assign=True)
    return task, model.eval()
