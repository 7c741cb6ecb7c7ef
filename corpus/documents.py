"""Read a folder of documents back, as the tokenizer and the statistics do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from biomlm.core.errors import DataError
from biomlm.inputs.streams import open_lines

SPLITS = ("train", "valid")
REMEDY = "Build the documents again."


def document_files(docs: str | Path, split: str) -> list[Path]:
    """Return the shards of a split, in order."""
    return sorted((Path(docs) / split).glob("*.jsonl.gz"))


def documents(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every document of a shard, as `{"text", "id", "metadata"}`.

    Raises:
        DataError: The shard is damaged.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for line in open_lines(file, remedy=REMEDY):
                number += 1
                yield orjson.loads(line)
    except orjson.JSONDecodeError:
        raise DataError("this shard is damaged", file=path, record=f"line {number}", remedy=REMEDY) from None
