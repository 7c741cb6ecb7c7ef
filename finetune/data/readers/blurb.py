"""The files of BLURB: the tables that its own script makes, and the JSON lines that LinkBERT's makes of them.

| BLURB's table | columns |
|---|---|
| ChemProt, DDI | id, sentence, label; no head line |
| GAD | index, sentence, label |
| BIOSSES | index, sentence1, sentence2, score |
| HoC | labels (`0_1,1_0,…`: ten of them), sentence, index (`<abstract>_s<number>`) |
| BioASQ | id, question, context, yes or no; no head line |
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from biomlm.core.errors import DataError
from biomlm.finetune.data import splits
from biomlm.finetune.data.dropped import Dropped
from biomlm.finetune.data.labelling import letters_of, number
from biomlm.finetune.data.readers.json_words import read_words
from biomlm.finetune.data.records import Labelled, Tagged
from biomlm.inputs import tables

Row = tuple[int, list[str]]  # line number and fields
REMEDY = "Make the file again with BLURB's script, or give a head line and --columns."

# The ten hallmarks in the order of BLURB's labels (Baker et al. 2016)
HALLMARKS = (
    "activating invasion and metastasis",
    "avoiding immune destruction",
    "cellular energetics",
    "enabling replicative immortality",
    "evading growth suppressors",
    "genomic instability and mutation",
    "inducing angiogenesis",
    "resisting cell death",
    "sustaining proliferative signaling",
    "tumor promoting inflammation",
)
NO_HEAD = {3: re.compile(r"CPR:\d+|DDI-\w+|false"), 4: re.compile("yes|no")}  # columns → what the last one holds


def find_tables(folder: Path) -> dict[str, list[Path]] | None:
    """Find the three tables, if the first line of the training fold is that of one of BLURB's."""
    files = splits.named(folder, {fold: f"{fold}.tsv" for fold in splits.NAMES})
    if files is None:
        return None
    with files["train"][0].open(encoding="utf-8", errors="replace") as file:
        fields = file.readline().rstrip("\r\n").split("\t")
    return files if _reader(fields) else None


def _reader(first: Sequence[str]) -> Callable[[Path, Row], Labelled] | None:
    """Choose the reader of a table with that first line."""
    if list(first) == ["labels", "sentence", "index"]:
        return _hallmarks
    if first[0] == "index":
        return {3: _sentence, 4: _similarity}.get(len(first))
    last = NO_HEAD.get(len(first))
    return {3: _sentence, 4: _question}[len(first)] if last and last.fullmatch(first[-1]) else None


def read_tables(paths: Sequence[Path], fold: str, dropped: Dropped) -> list[Labelled]:  # noqa: ARG001
    """Read one fold.

    Raises:
        DataError: A line has another number of columns, or a label that is none.
    """
    (path,) = paths
    rows = list(tables.whole_lists(path))
    reader = _reader(rows[0][1]) if rows else None
    if rows and reader is None:
        raise DataError(
            "the first line is not that of the training fold's table", file=path, record="line 1", remedy=REMEDY
        )
    width = len(rows[0][1]) if rows else 0
    for line, fields in rows:
        if len(fields) != width:
            problem = f"{len(fields)} columns where {width} were expected"
            raise DataError(problem, file=path, record=f"line {line}", remedy=REMEDY)
    with_head = reader is not None and rows[0][1][-1] in ("label", "score", "index")
    records = [reader(path, row) for row in rows[with_head:]] if reader else []
    # an `index` numbers a fold's own rows, and is no sign of a record that is in two folds
    numbered = with_head and rows[0][1][0] == "index"
    return [replace(record, id=f"{fold}:{record.id}") for record in records] if numbered else records


def _sentence(path: Path, row: Row) -> Labelled:  # noqa: ARG001
    line, (name, sentence, label) = row
    return Labelled(name, (sentence,), (label,), line=line)


def _question(path: Path, row: Row) -> Labelled:  # noqa: ARG001
    line, (name, question, context, label) = row
    return Labelled(name, (question, context), (label,), line=line)


def _similarity(path: Path, row: Row) -> Labelled:
    line, (name, one, two, score) = row
    return Labelled(name, (one, two), value=number(path, line, score), line=line)


def _hallmarks(path: Path, row: Row) -> Labelled:
    line, (labels, sentence, name) = row
    flags = [label.rpartition("_")[2] for label in labels.split(",")]
    return Labelled(name, (sentence,), _named(path, line, flags), line=line, document=name.partition("_")[0])


def _named(path: Path, line: int, flags: Sequence[Any]) -> tuple[str, ...]:
    if len(flags) != len(HALLMARKS) or not {str(flag) for flag in flags} <= {"0", "1"}:
        raise DataError("the labels are not ten zeros and ones", file=path, record=f"line {line}", remedy=REMEDY)
    return tuple(name for name, flag in zip(HALLMARKS, flags, strict=True) if str(flag) == "1")


def find_lines(folder: Path) -> dict[str, list[Path]] | None:
    """Find LinkBERT's `train.json`, `dev.json` and `test.json`, if each holds one object a line."""
    files = splits.named(folder, {fold: f"{fold}.json" for fold in splits.NAMES})
    if files is None:
        return None
    try:
        with files["train"][0].open("rb") as file:
            first = orjson.loads(file.readline())
    except orjson.JSONDecodeError:
        return None
    return files if isinstance(first, dict) and first.keys() & {"tokens", "sentence", "sentence1", "sent1"} else None


def read_lines(paths: Sequence[Path], fold: str, dropped: Dropped) -> list[Labelled]:  # noqa: ARG001
    """Read texts, pairs or multiple-choice questions of one fold.

    Raises:
        DataError: A line lacks a field, or its label is none.
    """
    (path,) = paths
    return [_line(path, line, row, fold) for line, row in tables.whole_objects(path)]


def read_tagged_lines(paths: Sequence[Path], fold: str, dropped: Dropped) -> list[Tagged]:  # noqa: ARG001
    """Read the sentences of one fold, `tokens` and their `ner_tags`.

    Raises:
        DataError: A line lacks a field, or has not as many tags as tokens.
    """
    (path,) = paths
    return read_words(path, fold)


def _line(path: Path, line: int, row: Any, fold: str) -> Labelled:
    name, label = f"{fold}:{row.get('id', line)}", row.get("label")
    keys = next(
        (keys for keys in (("sentence",), ("sentence1", "sentence2"), ("sent1",)) if row.keys() >= {*keys}), None
    )
    if keys is None or label is None:
        raise _missing(path, line, "a label and sentence, sentence1 and sentence2, or sent1")
    texts = tuple(str(row[key]) for key in keys)
    if keys == ("sent1",):
        texts += tuple(str(row[f"ending{i}"]) for i in range(26) if f"ending{i}" in row)
        if not isinstance(label, int) or not 0 <= label < len(texts) - 1:
            raise _missing(path, line, "a label that is the number of an ending")
        return Labelled(name, texts, (letters_of(len(texts) - 1)[label],), line=line)
    if isinstance(label, list):
        return Labelled(name, texts, _named(path, line, label), line=line)
    if isinstance(label, float):
        return Labelled(name, texts, value=number(path, line, label), line=line)
    return Labelled(name, texts, (str(label),), line=line)


def _missing(path: Path, line: int, wanted: str) -> DataError:
    remedy = "Make the file again with LinkBERT's script, or rename it to .jsonl and give --columns."
    return DataError(f"it lacks {wanted}", file=path, record=f"line {line}", remedy=remedy)
