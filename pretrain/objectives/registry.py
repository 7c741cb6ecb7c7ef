"""What a configuration knows of the terms of a loss before torch is loaded.

A configuration class is the registry: each field that is made by `term` is the weight of one term, and its `Entry` says what computes
it. Nothing else names a term, so a new one is a file and a field.
"""

import importlib
import inspect
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

C = TypeVar("C", bound=type)
E = TypeVar("E", bound="Entry")


@dataclass(frozen=True)
class Entry:
    """One term.

    Args:
        place: Module and class that compute it, with dots.
        help: What it is, for `--help`.
    """

    place: str
    help: str

    def load(self) -> Any:
        """Import the class."""
        module, _, name = self.place.rpartition(".")
        return getattr(importlib.import_module(module), name)


def term(weight: Any, entry: Entry, *, former: Any = MISSING) -> Any:
    """Declare a term by its default weight; see `core.fields.added` for `former`."""
    return field(default=weight, metadata={"term": entry, **({} if former is MISSING else {"former": former})})


def entries(config: Any, kind: type[E]) -> dict[str, E]:
    """Return the entry of every term of a configuration, an object or its class, by name; all are of one kind."""
    registered = {f.name: f.metadata["term"] for f in fields(config) if "term" in f.metadata}
    assert all(isinstance(entry, kind) for entry in registered.values())
    return registered


def described(config: C) -> C:
    """Complete the docstring of a configuration class, which becomes `--help`, with what its terms are."""
    doc = inspect.getdoc(config) or ""
    heading = "" if "\nArgs:" in doc else "\n\nArgs:"
    config.__doc__ = f"{doc}{heading}\n" + "\n".join(
        f"    {name}: {entry.help}" for name, entry in entries(config, Entry).items()
    )
    return config
