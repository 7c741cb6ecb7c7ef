"""What labels a record has, and how a row of a table states them: one, several, a number or a right choice; or tags of words.

A published layout says which it holds and a task which it learns from; neither names the other.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomlm.core.errors import ConfigError, DataError
from biomlm.finetune.data.records import Labelled
from biomlm.finetune.data.schema import Columns


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table.

    Args:
        path: The file.
        line: Where the row stands in it, from 1.
        id: Of its record.
        fields: Column → what it holds.
        columns: Which column is what.
    """

    path: Path
    line: int
    id: str
    fields: Mapping[str, Any]
    columns: Columns

    @property
    def texts(self) -> tuple[str, ...]:
        """The text, or the two of a pair."""
        return tuple(self.plain(column) for column in (self.columns.text, self.columns.pair) if column)

    @property
    def label(self) -> Any:
        """What the column of the label holds."""
        return self.fields.get(self.columns.label)

    def plain(self, column: str) -> str:
        """Return what a key of a JSON line holds, as text.

        Raises:
            DataError: It holds several values.
        """
        if isinstance(self.fields[column], (dict, list)):
            remedy = "Write one text or number there; several labels are for --task multilabel."
            raise self.error(f"{column} holds several values", remedy)
        return str(self.fields[column])

    def error(self, problem: str, remedy: str) -> DataError:
        """Build the error for this row."""
        return DataError(problem, file=self.path, record=f"line {self.line}", remedy=remedy)


def _one(row: Row) -> Labelled:
    return Labelled(row.id, row.texts, (row.plain(row.columns.label),), line=row.line)


def _several(row: Row) -> Labelled:
    several = row.label if isinstance(row.label, list) else str(row.label or "").split(row.columns.separator)
    labels = tuple(sorted({str(one).strip() for one in several} - {""}))
    document = str(row.fields[row.columns.document]) if row.columns.document else ""
    return Labelled(row.id, row.texts, labels, line=row.line, document=document)


def _number(row: Row) -> Labelled:
    return Labelled(row.id, row.texts, value=number(row.path, row.line, row.label), line=row.line)


def _choice(row: Row) -> Labelled:
    if not row.columns.choices:
        remedy = "Name the columns of the choices, or the one key of all."
        raise ConfigError("multiple choice needs --columns.choices", remedy=remedy)
    choices = _choices(row)
    return Labelled(row.id, (*row.texts, *choices), (_letter(row, len(choices)),), line=row.line)


@dataclass(frozen=True)
class Labelling:
    """A kind of labels.

    Args:
        name: What tells it from the others.
        record: A table's row → its record; None where labels are tags of words, which tables do not hold.
        number: How many labels every record must have; None for any number of them.
        learned: Whether they are those of the training fold, so that another fold may have unseen ones. Letters of choices are not.
        optional: Whether a record may have none: its field in a table may be empty.
    """

    name: str
    record: Callable[[Row], Labelled] | None
    number: int | None = None
    learned: bool = True
    optional: bool = False


TAGS = Labelling("tags of words", None)
CLASS = Labelling("one label", _one, number=1)
RELATION = Labelling("one label of a pair of entities", _one, number=1)
CLASSES = Labelling("several labels", _several, optional=True)
NUMBER = Labelling("a number", _number, number=0, learned=False)
CHOICE = Labelling("one choice of several", _choice, number=1, learned=False)


def letters_of(choices: int) -> tuple[str, ...]:
    """Return the letters of so many choices: A, B, C, …"""
    return tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:choices])


def _letter(row: Row, choices: int) -> str:
    """Return the right choice's letter, given as such or as its number from 0."""
    letters, label = letters_of(choices), str(row.label)
    if label in letters:
        return label
    if label.isdecimal() and int(label) < len(letters):
        return letters[int(label)]
    remedy = f"The label of a choice is one of {', '.join(letters) or 'A, B, …'}, or its number from 0."
    raise row.error("the label is none of the choices", remedy)


def _choices(row: Row) -> list[str]:
    """Return the choices' texts: several columns, or one JSON list, or one JSON object (MedQA's `options`) in the order of its keys."""
    values = [row.fields[name] for name in row.columns.choices]
    if len(values) == 1 and isinstance(values[0], dict):
        values = [values[0][key] for key in sorted(values[0])]
    elif len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    return [str(value) for value in values]


def number(path: Path, line: int, label: Any) -> float:
    """Parse a label that is a similarity.

    Raises:
        DataError: It is no finite number.
    """
    try:
        value = float(label)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            "the label is no number", file=path, record=f"line {line}", remedy="A similarity is a finite number."
        )
    return value
