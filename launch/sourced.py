"""YAML values that know where they stand: file, line, and the comment behind them, kept while one file is laid over another."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from biomlm.core.config import refuse_doubles, yaml_errors
from biomlm.core.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Place:
    """Where a value stands.

    Args:
        file: The YAML file.
        line: Counted from 1.
        comment: What stands behind it on that line.
    """

    file: Path
    line: int
    comment: str = ""

    @property
    def name(self) -> str:
        """Give the file, a shipped one by its path in the package."""
        file = self.file.resolve()
        return (file.relative_to(PACKAGE) if PACKAGE in file.parents else self.file).as_posix()

    def __str__(self) -> str:
        return f"{self.name}:{self.line}"


@dataclass(frozen=True)
class Value:
    """A value and its place.

    Args:
        data: A mapping of names to values, a list of values, or what YAML reads from one scalar.
        place: Where it stands.
    """

    data: Any
    place: Place

    @property
    def entries(self) -> "dict[str, Value]":
        """Give a mapping's entries.

        Raises:
            ConfigError: It is no mapping.
        """
        if not isinstance(self.data, dict):
            raise self.refused("this must be a mapping of names to values", "Write `name: value` lines.")
        return self.data

    @property
    def items(self) -> "list[Value]":
        """Give a list's items.

        Raises:
            ConfigError: It is no list.
        """
        if not isinstance(self.data, list):
            raise self.refused("this must be a list", "Write `- item` lines, or [a, b].")
        return self.data

    @property
    def text(self) -> str:
        """Give a scalar as text.

        Raises:
            ConfigError: It is a list, a mapping or nothing.
        """
        if isinstance(self.data, (dict, list)) or self.data is None:
            raise self.refused("this must be one word or sentence", "Write it behind the colon.")
        return str(self.data)

    @property
    def plain(self) -> Any:
        """Give the value without places."""
        if isinstance(self.data, dict):
            return {name: value.plain for name, value in self.data.items()}
        return [value.plain for value in self.data] if isinstance(self.data, list) else self.data

    def refused(self, problem: str, remedy: str) -> ConfigError:
        """Make the error that names this value's file and line."""
        return ConfigError(problem, file=self.place.file, record=f"line {self.place.line}", remedy=remedy)

    def leaves(self, prefix: str = "") -> "Iterator[tuple[str, Value]]":
        """Yield the dotted name and the value of everything in a mapping that is no mapping itself."""
        if isinstance(self.data, dict):
            for name, value in self.data.items():
                yield from value.leaves(f"{prefix}.{name}" if prefix else name)
        else:
            yield prefix, self


def load(file: Path, remedy: str) -> Value:
    """Read a YAML file.

    Args:
        file: The file.
        remedy: What to do if it cannot be read.

    Raises:
        ConfigError: It is missing, no UTF-8, no YAML, or has a key twice in one mapping.
    """
    with yaml_errors(file, remedy):
        text = file.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        refuse_doubles(node, file)
        comments = _comments(text)
        return Value(None, Place(file, 1)) if node is None else _value(node, loader, file, comments)


def _value(node: yaml.Node, loader: yaml.SafeLoader, file: Path, comments: dict[int, str]) -> Value:
    place = Place(file, node.start_mark.line + 1, comments.get(node.end_mark.line, ""))
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)  # `<<: *anchor`: what it brings stands before the mapping's own keys
        pairs = [(str(loader.construct_object(key, deep=True)), value) for key, value in node.value]
        return Value({name: _value(value, loader, file, comments) for name, value in pairs}, place)
    if isinstance(node, yaml.SequenceNode):
        return Value([_value(item, loader, file, comments) for item in node.value], place)
    return Value(loader.construct_object(node), place)


def _comments(text: str) -> dict[int, str]:
    """Map every line on which a token ends to the comment behind it."""
    ends: dict[int, int] = {}
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        ends[token.end_mark.line] = max(token.end_mark.index, ends.get(token.end_mark.line, 0))
    rests = {line: text[end:].partition("\n")[0].strip() for line, end in ends.items()}
    return {line: rest[1:].strip() for line, rest in rests.items() if rest.startswith("#")}


def head_comment(file: Path) -> list[str]:
    """Read the lines of comment at the top of a file, which say where the numbers without a comment of their own come from."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line)
    return lines


def merge(below: Value, above: Value) -> Value:
    """Lay one value over another: mappings key by key, everything else as a whole."""
    if not (isinstance(below.data, dict) and isinstance(above.data, dict)):
        return above
    both = dict(below.data)
    for name, value in above.data.items():
        both[name] = merge(both[name], value) if name in both else value
    return Value(both, above.place)
