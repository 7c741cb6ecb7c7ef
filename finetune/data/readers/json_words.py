"""Reader of words and tags as JSON: `words` or `tokens`, and lists of tags under `ner_tags` or `label_ids`, there also several by name.

An object a line, or one list of objects (EMBO's SourceData sets, LinkBERT's files, most of Hugging Face's). Where there are several sets of
tags, as SourceData has entities, roles and panels, the user names one.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from biomlm.core.errors import DataError
from biomlm.finetune.data.readers.iob import record_of
from biomlm.finetune.data.records import Tagged
from biomlm.inputs import tables
from biomlm.inputs.streams import read_text

WORDS, TAGS = ("words", "tokens"), ("ner_tags", "label_ids")


def read_words(path: Path, fold: str, name: str = "") -> list[Tagged]:
    """Read one file.

    Args:
        path: A `.json` or `.jsonl` file, or one in gzip.
        fold: Its name in the ids.
        name: Of the set of tags; may be left out where there is one.

    Raises:
        DataError: No JSON, words or tags missing or not as many, numbers for tags, or not one set of tags.
    """
    records = []
    for line, row in _objects(path):
        words: list[Any] = next((row[key] for key in WORDS if isinstance(row.get(key), list)), [])
        tags = _tags(path, line, row, name)
        if not words or len(tags) != len(words):
            raise _wrong(path, line, f"it lacks {' or '.join(WORDS)} and as many tags")
        if not all(isinstance(item, str) for item in (*words, *tags)):
            raise _wrong(
                path, line, "a word or tag is no string", "Write tags by name: numbers do not say which they are."
            )
        tokens = [(word, tag, line) for word, tag in zip(words, tags, strict=True)]
        records.append(record_of(path, f"{fold}:{row.get('id', line)}", tokens))
    return records


def _tags(path: Path, line: int, row: Mapping[str, Any], name: str) -> list[Any]:
    """Return the set of tags of that name, or the only one."""
    sets: dict[str, list[Any]] = {}
    for key, value in row.items():
        if isinstance(value, list) and (key in TAGS or key == name):
            sets[key] = value
        elif key in TAGS and isinstance(value, dict):
            sets |= {inner: tags for inner, tags in value.items() if isinstance(tags, list)}
    if name in sets:
        return sets[name]
    names = ", ".join(sets) or "none"
    if name:
        raise _wrong(path, line, f"there is no set of tags {name}", f"Name one of these by --columns.label: {names}.")
    if len(sets) > 1:
        raise _wrong(path, line, "there are several sets of tags", f"Name one of these by --columns.label: {names}.")
    return next(iter(sets.values()), [])


def _objects(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the objects, each with its line, or its number in a list."""
    text = read_text(path)
    if not text.lstrip().startswith("["):
        yield from tables.whole_objects(path)
        return
    try:
        rows = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _wrong(path, error.lineno, "this is not valid JSON") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise _wrong(path, number, "this is no JSON object")
        yield number, row


def _wrong(
    path: Path, line: int, problem: str, remedy: str = "Write an object with words and their tags a line."
) -> DataError:
    return DataError(problem, file=path, record=f"line {line}", remedy=remedy)
