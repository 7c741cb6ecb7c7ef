"""The fine-tuned model in the run folder: a native model (docs/design.md) whose head stands in the group `rest`, its labels in the facts.

So the folder is a MODEL like any other: `convert` reads it, and further training can start from it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from biolm.convert import native
from biolm.convert.load import Loaded
from biolm.convert.parts import Parts
from biolm.tokenizer import folder as tokenizer_folder

LM = "lm."
HEAD = "classification_heads."  # convert's neutral name; `classifier.weight` behind it is transformers' name as well
FACT = "finetune"


def write(
    out: Path, loaded: Loaded, tensors: Mapping[str, Tensor], labels: tuple[str, ...], facts: dict[str, Any]
) -> list[Path]:
    """Write the model into a run folder; the files that hold it.

    Args:
        out: The run folder.
        loaded: The model that was fine-tuned.
        tensors: The state of the task's model.
        labels: The head's outputs, in order.
        facts: What prediction must know: the task and its sizes.
    """
    parts = Parts(
        kind="native",
        config=loaded.config,
        tensors={name.removeprefix(LM): t for name, t in tensors.items() if name.startswith(LM)},
        weights=out,
        rest={HEAD + name: t for name, t in tensors.items() if not name.startswith(LM)},
        facts={
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
            FACT: facts,
        },
    )
    dtype = next(iter(tensors.values())).dtype
    assert loaded.tokenizer_dir is not None
    tokenizer_folder.copy(loaded.tokenizer_dir, out / native.TOKENIZER)
    return native.write(parts, out, dtype)
