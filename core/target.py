"""Where a command may write: never over, around or into what it reads, and never over what it did not write itself."""

import re
from collections.abc import Callable, Iterable, Set
from pathlib import Path

import orjson

from biomlm.core import lock
from biomlm.core.errors import ConfigError

MANIFEST = "manifest.json"

Ours = Callable[[Path], bool]


def refuse_target(
    target: str | Path, inputs: Iterable[str | Path], *, option: str, ours: Ours, inside: bool = False
) -> None:
    """Refuse to write where it would cost something that stands there; links are followed, so that none hides an input.

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
    """For what is never replaced: only an empty folder gives way."""
    return place.is_dir() and not any(place.iterdir())


def stage(place: Path) -> bool:
    """An empty folder or one with a manifest; `manifest.begin` then says whether it is this stage's."""
    return place.is_dir() and ((place / MANIFEST).is_file() or all(path.name == lock.NAME for path in place.iterdir()))


def matching(pattern: str) -> Ours:
    """A file with such bytes in it, as the verb's pages have them."""
    return lambda place: place.is_file() and re.search(pattern.encode(), place.read_bytes()) is not None


def with_keys(*keys: Set[str]) -> Ours:
    """A JSON object with exactly one of these sets of keys."""

    def found(place: Path) -> bool:
        try:
            value = orjson.loads(place.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return False
        return isinstance(value, dict) and value.keys() in keys

    return found
