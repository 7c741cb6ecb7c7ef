"""`biomlm launch show RECIPE`: what a recipe comes to with its parents, configurations and scale, every value with the place it is from.

What is printed is a recipe itself: `biomlm launch show NAME > mine.yaml`, edit it, `biomlm launch mine.yaml`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from biomlm.launch.resolve import Document, find, name_of, resolve
from biomlm.launch.sourced import Place, Value, head_comment

WIDTH = 72  # column at which the places begin, where values leave room


@dataclass(frozen=True)
class ShowConfig:
    """Show what a recipe comes to.

    Args:
        recipe: A shipped recipe's name, or a YAML file.
        scale: `smoke` shows the small version of the recipe; `paper` is another word for `full`.
    """

    recipe: str
    scale: Literal["full", "smoke", "paper"] = "full"


def run(config: ShowConfig) -> None:
    """Print the recipe."""
    file = find(config.recipe)
    print("\n".join(lines(file, config.scale)))


def lines(file: Path, scale: str) -> Iterator[str]:
    """Yield the lines of a recipe that stands alone and has the same stages.

    Args:
        file: The recipe.
        scale: `smoke` for its small version.
    """
    document = resolve(file, scale)
    yield f"# Recipe {name_of(file)} at {scale} scale, with all that it extends: `biomlm launch show` wrote it."
    for source in _sources(document):
        yield f"#\n# {Place(source, 1).name}:"
        yield from (f"#   {line.lstrip('# ')}".rstrip() for line in head_comment(source))
    yield ""
    for key in ("description", "vars", "inputs", "published"):
        if key in document.entries:
            yield from _entry(key, document.entries[key], 0)
    yield "stages:"
    for stage in document.stages.values():
        first, *rest = (line for key, value in stage.entries.items() for line in _entry(key, value, 4))
        yield from (f"\n  - {first[4:]}", *rest)


def _sources(document: Document) -> list[Path]:
    """List all files that a value comes from, the recipe's own first."""
    files = dict.fromkeys(document.files)
    for value in (*document.entries.values(), *document.stages.values()):
        files |= dict.fromkeys(leaf.place.file for _, leaf in value.leaves())
    return list(files)


def _entry(key: str, value: Value, indent: int) -> Iterator[str]:
    """Yield the lines of a key and its value."""
    if isinstance(value.data, dict) and value.data:
        yield f"{' ' * indent}{_scalar(key)}:"
        for name, item in value.data.items():
            yield from _entry(name, item, indent + 2)
        return
    comment = f"{value.place}{f': {value.place.comment}' if value.place.comment else ''}"
    text = f"{' ' * indent}{_scalar(key)}: {_scalar(_here(value))}"
    yield f"{text:{WIDTH}}  # {comment}"


def _here(value: Value) -> Any:
    """Give a value without places, `${recipe}` filled in: what is shown may be kept in another folder."""
    if isinstance(value.data, dict):
        return {name: _here(item) for name, item in value.data.items()}
    if isinstance(value.data, list):
        return [_here(item) for item in value.data]
    return value.data.replace("${recipe}", str(value.place.file.parent)) if isinstance(value.data, str) else value.data


def _scalar(value: Any) -> str:
    """Write a value on one line, as YAML reads it back."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
