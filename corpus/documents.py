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
    with path.open("rb") as file:
        for number, line in enumerate(open_lines(file, remedy=REMEDY), start=1):
            try:
                document = orjson.loads(line)
            except orjson.JSONDecodeError:
                document = None
            if not _is_document(document):
                raise DataError("this shard is damaged", file=path, record=f"line {number}", remedy=REMEDY)
            yield document


def _is_document(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(meta := value.get("metadata"), dict):
        return False
    sections = meta.get("sections")
    texts = (value.get("text"), value.get("id"), meta.get("source"))
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(sections, list)
        and all(isinstance(section, list) and list(map(type, section)) == [int, int, str] for section in sections)
    )
