"""Reading a folder of documents back: what the tokenizer and the statistics see."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from biomlm.core.errors import DataError
from biomlm.inputs import gzip

SPLITS = ("train", "valid")
DAMAGE: tuple[type[Exception], ...] = (*gzip.ERRORS, orjson.JSONDecodeError)


def document_files(docs: str | Path, split: str) -> list[Path]:
    """The shards of a split, in order."""
    return sorted((Path(docs) / split).glob("*.jsonl.gz"))


def documents(path: Path) -> Iterator[dict[str, Any]]:
    """Every document of a shard, as `{"text", "id", "metadata"}`.

    Raises:
        DataError: The shard is damaged.
    """
    number = 0
    try:
        with gzip.Gunzip(path, "rb") as lines:
            for line in lines:
                number += 1
                yield orjson.loads(line)
    except DAMAGE:
        raise DataError(
            "this shard is damaged", file=path, record=f"line {number}", remedy="Build the documents again."
        ) from None
