"""Reader of tables: TSV, CSV and JSONL with a map of columns, for any task on whole texts."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biomlm.core.errors import ConfigError, DataError
from biomlm.finetune.data.records import Labelled
from biomlm.finetune.data.schema import Columns
from biomlm.inputs import tables

ENDINGS = (".jsonl", ".tsv", ".csv")


def read_table(path: Path, fold: str, columns: Columns, task: str) -> list[Labelled]:
    """Read one file.

    Args:
        path: `.tsv`, `.csv` (with a head line) or `.jsonl`, also in gzip.
        fold: Its name in the ids.
        columns: The map.
        task: `multilabel` splits the label, `similarity` reads it as a number, `choice` wants choices.

    Raises:
        ConfigError: No columns for the choices.
        DataError: A line that is malformed, or lacks a column or a label.
    """
    if task == "choice" and not columns.choices:
        raise ConfigError(
            "choice needs --columns.choices", remedy="Name the columns of the choices, or the one key of all."
        )
    wanted = [
        columns.text,
        columns.label,
        *filter(None, (columns.pair, columns.id, columns.document)),
        *columns.choices,
    ]
    records: list[Labelled] = []
    for line, row in tables.whole_rows(path):
        missing = [
            name
            for name in wanted
            if row.get(name) in (None, "") and not (name == columns.label and task == "multilabel")
        ]
        if missing:
            problem = f"the column {missing[0]} is {'empty' if missing[0] in row else 'missing'}"
            remedy = "Every record needs it; --columns.text, --columns.label and so on name the columns."
            raise DataError(problem, file=path, record=f"line {line}", remedy=remedy)
        name = str(row[columns.id]) if columns.id else f"{fold}:{len(records) + 1}"
        records.append(_record(path, line, name, row, columns, task))
    return records


def _record(path: Path, line: int, name: str, row: Mapping[str, Any], columns: Columns, task: str) -> Labelled:
    texts = [_plain(path, line, row, column) for column in (columns.text, columns.pair) if column]
    label = row.get(columns.label)
    if task == "similarity":
        return Labelled(name, tuple(texts), value=number(path, line, label), line=line)
    if task == "multilabel":
        several = label if isinstance(label, list) else str(label or "").split(columns.separator)
        labels = tuple(sorted({str(one).strip() for one in several} - {""}))
        document = str(row[columns.document]) if columns.document else ""
        return Labelled(name, tuple(texts), labels, line=line, document=document)
    if task == "choice":
        choices = _choices(row, columns)
        return Labelled(name, (*texts, *choices), (_letter(path, line, label, len(choices)),), line=line)
    return Labelled(name, tuple(texts), (_plain(path, line, row, columns.label),), line=line)


def _plain(path: Path, line: int, row: Mapping[str, Any], column: str) -> str:
    """Return what a key of a JSON line holds, as text."""
    if isinstance(row[column], (dict, list)):
        remedy = "Write one text or number there; several labels are for --task multilabel."
        raise DataError(f"{column} holds several values", file=path, record=f"line {line}", remedy=remedy)
    return str(row[column])


def letters_of(choices: int) -> tuple[str, ...]:
    """Return the letters of so many choices: A, B, C, …"""
    return tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:choices])


def _letter(path: Path, line: int, label: Any, choices: int) -> str:
    """Return the right choice's letter, given as such or as its number from 0."""
    letters = letters_of(choices)
    if str(label) in letters:
        return str(label)
    if str(label).isdecimal() and int(label) < len(letters):
        return letters[int(label)]
    remedy = f"The label of a choice is one of {', '.join(letters) or 'A, B, …'}, or its number from 0."
    raise DataError("the label is none of the choices", file=path, record=f"line {line}", remedy=remedy)


def _choices(row: Mapping[str, Any], columns: Columns) -> list[str]:
    """Return the choices' texts: several columns, or one JSON list, or one JSON object (MedQA's `options`) in the order of its keys."""
    values = [row[name] for name in columns.choices]
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
