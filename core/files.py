"""Files that are either whole or not there: write beside, flush to disk, rename.

A reader therefore never sees half a file, and a run that is killed or meets a full disk leaves what was there before.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from biomlm.core.errors import DataError

HASH_BLOCK = 1 << 20  # bytes read at a time


def fsync_path(path: Path) -> None:
    """Flush one file or directory entry to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is renamed to `path`, on any exception removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield tmp
        fsync_path(tmp)
        tmp.replace(path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success it takes `path`'s place, on any exception it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir()
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        yield tmp
        for file in tmp.rglob("*"):
            if file.is_file():
                fsync_path(file)
        if path.exists():
            path.rename(old)
        tmp.rename(path)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
    fsync_path(path.parent)


def sweep(folder: str | Path) -> None:
    """Remove what killed writers left under a folder; a folder that was just being replaced gets its old content back."""
    for old in Path(folder).rglob(".*.old"):
        place = old.with_name(old.name[1:].rsplit(".", 2)[0])
        if place.exists():
            shutil.rmtree(old)
        else:
            old.rename(place)
    for tmp in Path(folder).rglob(".*.tmp"):
        shutil.rmtree(tmp) if tmp.is_dir() else tmp.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_file(path) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as indented JSON with sorted keys, atomically, so that the same value gives the same bytes."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
    with atomic_file(path) as tmp:
        tmp.write_bytes(orjson.dumps(value, option=options))


def read_json(path: str | Path, remedy: str = "Make it again with the command that wrote it.") -> dict[str, object]:
    """Read a JSON object.

    Raises:
        DataError: The file is missing, is not JSON or holds something other than an object.
    """
    path = Path(path)
    try:
        value = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError("there is no such file", file=path, remedy=remedy) from None
    except orjson.JSONDecodeError as error:
        raise DataError("this is not valid JSON", file=path, record=f"line {error.lineno}", remedy=remedy) from None
    if not isinstance(value, dict):
        raise DataError(f"a JSON object was expected, not a {type(value).__name__}", file=path, remedy=remedy)
    return value


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
