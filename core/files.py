"""Write files that are either whole or not there: write beside, flush to disk, rename.

A reader therefore never sees half a file, and a run that is killed or meets a full disk leaves what was there before. `refuse_target`
decides where a command may write: never over, around or into what it reads, and never over what it did not write itself.
"""

import codecs
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TextIO

import orjson

from biomlm.core.errors import ConfigError, DataError, UnsafeFileError
from biomlm.core.processes import lock

HASH_BLOCK = 1 << 20  # bytes read at a time
MANIFEST = "manifest.json"
ABANDONED = 60  # seconds; a folder that was just made is not marked yet

Ours = Callable[[Path], bool]


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
    sweep_abandoned(path.parent, rf"\.{re.escape(path.name)}\.\d+\.tmp")
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir()
    mark = mark_used(tmp)
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
    finally:
        os.close(mark)
    shutil.rmtree(old, ignore_errors=True)
    fsync_path(path.parent)


def mark_used(folder: Path) -> int:
    """Lock a temporary folder or file as long as this process lives and the descriptor that is returned is open."""
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # a file system without locks: nothing there is ever swept
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def sweep_abandoned(parent: Path, pattern: str) -> None:
    """Remove temporary folders and files that killed processes left: ours of this name, old enough, that nobody has marked as used."""
    for folder in list(parent.iterdir()):
        if not re.fullmatch(pattern, folder.name) or folder.is_symlink():
            continue
        with suppress(OSError):  # another process may be sweeping too
            about, descriptor = folder.stat(), os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if about.st_uid == os.getuid() and time.time() - about.st_mtime > ABANDONED:
                    shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
            finally:
                os.close(descriptor)


def sweep(folder: str | Path) -> None:
    """Remove what killed writers left under a folder; a folder that was just being replaced gets its old content back."""
    for old in Path(folder).rglob(".*.old"):
        target = old.with_name(old.name[1:].rsplit(".", 2)[0])
        if target.exists():
            shutil.rmtree(old)
        else:
            old.rename(target)
    for tmp in Path(folder).rglob(".*.tmp"):
        shutil.rmtree(tmp) if tmp.is_dir() else tmp.unlink()


def refuse_links(*paths: Path) -> None:
    """Refuse links at and below what is written to: a run folder from a stranger could lead what is written or removed to elsewhere.

    Raises:
        UnsafeFileError: There is one.
    """
    for path in paths:
        below = (Path(folder, name) for folder, folders, files in os.walk(path) for name in (*folders, *files))
        for there in chain([path], below):
            if there.is_symlink():
                raise UnsafeFileError(
                    "this link would lead what is written here to elsewhere",
                    file=there,
                    remedy="Put what it leads to in its place, or give another --out.",
                )


@contextmanager
def append_text(path: Path) -> Iterator[TextIO]:
    """Open a log at its end; its folder is made if need be, and a link in the place of either is refused."""
    refuse_links(path.parent, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        yield file


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_file(path) as tmp:
        tmp.write_text(text, encoding="utf-8")


def read_if_done(path: str | Path) -> dict[str, object] | None:
    """Read a JSON file that a finished part of a run leaves behind; None if it is not there."""
    return read_json(path) if Path(path).exists() else None


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
        value = orjson.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except FileNotFoundError:
        raise DataError("there is no such file", file=path, remedy=remedy) from None
    except orjson.JSONDecodeError as error:
        raise DataError("this is not valid JSON", file=path, record=f"line {error.lineno}", remedy=remedy) from None
    if not isinstance(value, dict):
        raise DataError(f"a JSON object was expected, not a {type(value).__name__}", file=path, remedy=remedy)
    return value


def sha256(path: str | Path) -> str:
    """Compute the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def refuse_target(
    target: str | Path, inputs: Iterable[str | Path], *, option: str, ours: Ours, inside: bool = False
) -> None:
    """Refuse a target whose writing would destroy something; links are followed, so that none hides an input.

    Args:
        target: The file or folder to write; an empty name writes nothing.
        inputs: Files and folders that the command reads; names of what is no path, and empty ones, do no harm.
        option: What names the target on the command line.
        ours: Whether what stands at the target was written by this command, so that it may be replaced or gone on with.
        inside: Let the target lie in an input folder, of which the command reads known files only, as a page beside its runs does.

    Raises:
        ConfigError: The target is an input, holds one or lies in one; it is not ours; or it would lie in a file.
    """
    if not str(target):
        return
    place, remedy = Path(target).resolve(), f"Give another {option}."
    for name in filter(str, inputs):
        there = Path(name).resolve()
        if not there.exists():
            continue
        if place == there or (place.exists() and place.samefile(there)):
            raise ConfigError("this is an input of the command", file=target, remedy=remedy)
        if place in there.parents:
            raise ConfigError(f"this folder holds an input of the command, {name}", file=target, remedy=remedy)
        if there in place.parents and not (inside and there.is_dir()):
            raise ConfigError(f"this lies in an input of the command, {name}", file=target, remedy=remedy)
    barrier = next(folder for folder in place.parents if folder.exists())
    if not barrier.is_dir():
        raise ConfigError(f"{barrier} is a file, and this would lie in it", file=target, remedy=remedy)
    if (place.exists() or Path(target).is_symlink()) and not ours(place):
        raise ConfigError("this stands there already, and this command did not write it", file=target, remedy=remedy)


def nothing(place: Path) -> bool:
    """Accept an empty folder only: for targets that are never replaced."""
    return place.is_dir() and not any(place.iterdir())


def stage(place: Path) -> bool:
    """Accept an empty folder or one with a manifest; `manifest.begin` then checks whether it is this stage's."""
    return place.is_dir() and ((place / MANIFEST).is_file() or all(path.name == lock.NAME for path in place.iterdir()))


def matching(pattern: str) -> Ours:
    """Accept a file with bytes that match a pattern, as the verb's pages have."""
    return lambda place: place.is_file() and re.search(pattern.encode(), place.read_bytes()) is not None


def with_keys(*keys: Set[str]) -> Ours:
    """Accept a JSON object with exactly one of these sets of keys."""

    def has_keys(place: Path) -> bool:
        try:
            value = orjson.loads(place.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return False
        return isinstance(value, dict) and value.keys() in keys

    return has_keys
