"""The tasks by their names on the command line: a new one is a file with a class like those here, and an entry below.

Nothing else names a task. Classes are named as text and imported when they are needed, so that `--help` imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from biomlm.core.verbs import load


@dataclass(frozen=True)
class Entry:
    """A task.

    Args:
        task_at: Place (`module:name`) of its class, which holds all that it computes and reads (`biomlm.finetune.tasks.base`).
        summary: What it is, in a few words, for `--help`.
        options: The fields of `FinetuneConfig` that it reads and some other task does not.
        needs: Those of them that must be given → what to give.
        blurb: The kind of BLURB's data sets that its main score is for; empty for none.
    """

    task_at: str
    summary: str
    options: tuple[str, ...]
    needs: Mapping[str, str] = field(default_factory=dict)
    blurb: str = ""

    @property
    def task(self) -> type[Any]:
        """Its class, a `Task`."""
        return load(self.task_at)  # type: ignore[no-any-return]


TAGS = ("columns.label", "one_type", "groups", "st21pv", "repair_tags", "crf", "unseen_labels")
TABLE = ("columns.text", "columns.pair", "columns.label", "columns.id")
LABELS = (*TABLE, "unseen_labels")

TASKS: Mapping[str, Entry] = {
    "ner": Entry(
        "biomlm.finetune.tasks.token_classification:Ner",
        "entities (IOB, PubTator or brat files)",
        TAGS,
        blurb="named entities",
    ),
    "pico": Entry("biomlm.finetune.tasks.token_classification:Pico", "the same, scored by words", TAGS, blurb="PICO"),
    "classification": Entry(
        "biomlm.finetune.tasks.text_classification:Classification",
        "one label a text or pair; yes/no/maybe questions",
        (*LABELS, "class_weights"),
        blurb="question answering",
    ),
    "relation": Entry(
        "biomlm.finetune.tasks.text_classification:Relation",
        "the same, scored by F1 without the negative class",
        (*LABELS, "class_weights", "negative"),
        needs={"negative": "Name the label that says there is no relation."},
        blurb="relations",
    ),
    "multilabel": Entry(
        "biomlm.finetune.tasks.text_classification:MultiLabel",
        "any number of labels a text",
        (*LABELS, "columns.document", "columns.separator"),
        blurb="document classification",
    ),
    "similarity": Entry(
        "biomlm.finetune.tasks.text_classification:Similarity", "a number for a pair", TABLE, blurb="similarity"
    ),
    "choice": Entry("biomlm.finetune.tasks.text_classification:Choice", "multiple choice", (*TABLE, "columns.choices")),
    # a new task
}


def reading(option: str) -> list[str]:
    """Return the names of the tasks that read an option."""
    return [name for name, entry in TASKS.items() if option in entry.options]
