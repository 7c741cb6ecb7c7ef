"""What a field of a configuration says about itself: whether it decides the output, since when, under which name, and when it applies."""

import math
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any

from biomlm.core.errors import ConfigError


def runtime(default: Any) -> Any:
    """Declare a field that changes how a stage runs but not what it writes (workers, logging): left out of the hash."""
    return field(default=default, metadata={"runtime": True})


def reads(default: Any) -> Any:
    """Declare a path of something whose content stands among the manifest's inputs: the same content elsewhere is the same thing."""
    return field(default=default, metadata={"reads": True})


def added(default: Any, *, former: Any = MISSING) -> Any:
    """Declare a field that folders made before it do not have: left out of the hash at the value of the former behaviour.

    Args:
        default: The field's default, a value or (if it can be called) a factory.
        former: The value at which the stage does what it did before the field; the default unless said otherwise.
    """
    factory = {"default_factory": default} if callable(default) else {"default": default}
    value = default() if callable(default) else default
    return field(**factory, metadata={"former": value if former is MISSING else former})


@dataclass(frozen=True)
class Applies:
    """When an option has an effect.

    Args:
        when: Asks the configuration that holds the option.
        needs: What the user must give for it, as the error says it.
    """

    when: Callable[[Any], bool]
    needs: str


def only(default: Any, when: Callable[[Any], bool], needs: str, **metadata: Any) -> Any:
    """Declare a field that does nothing unless `when(configuration)`: another value than the default is refused then.

    Args:
        default: The field's default, a value or (if it can be called) a factory.
        when: Asks the dataclass that the field stands in.
        needs: What the user must give for it to have an effect.
        metadata: Further marks of the field, such as `runtime=True`.
    """
    factory = {"default_factory": default} if callable(default) else {"default": default}
    return field(**factory, metadata={"applies": Applies(when, needs), **metadata})


def renamed(default: Any, *, was: str) -> Any:
    """Declare a field that had another name: it is hashed under that name, and read under it from files and flags."""
    return field(default=default, metadata={"was": was})


def decisive(value: Any) -> Any:
    """Reduce a configuration to what decides a stage's output, as plain values: what is hashed, now and in every later release.

    Fields marked `runtime` are left out, fields marked `added` at their former value too; `renamed` ones stand under their old names.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {
            f.metadata.get("was", f.name): decisive(getattr(value, f.name))
            for f in fields(value)
            if not f.metadata.get("runtime")
            and not ("former" in f.metadata and getattr(value, f.name) == f.metadata["former"])
        }
    return [decisive(item) for item in value] if isinstance(value, (list, tuple)) else value


def former_names(cls: type, prefix: str = "") -> dict[str, str]:
    """Map every dotted key that a class had before to today's."""
    today: dict[str, str] = {}
    hints = typing.get_type_hints(cls)
    for f in fields(cls):
        if "was" in f.metadata:
            today[prefix + f.metadata["was"]] = prefix + f.name
        if is_dataclass(hints[f.name]):
            today |= former_names(hints[f.name], f"{prefix}{f.name}.")
    return today


def without_effect(config: Any) -> Iterator[tuple[str, str]]:
    """Every option that has another value than its default although nothing reads it, and what it would need.

    Rules stand beside the fields (`only`). A field that holds a dataclass may have rules for the options in it, as a mapping under
    `applies`, which ask the configuration that holds the field: what they need stands outside of the shared dataclass.
    """
    return _idle(config, None, "", {})


def _idle(
    config: Any, defaults: Any, prefix: str, outer: Mapping[str, tuple[Any, Applies]]
) -> Iterator[tuple[str, str]]:
    for f in fields(config):
        value = getattr(config, f.name)
        default = getattr(defaults, f.name) if defaults is not None else _default_of(f)
        rules = f.metadata.get("applies", {})
        if is_dataclass(value) and not isinstance(value, type):
            inner = {name: (config, rule) for name, rule in rules.items()} if isinstance(rules, Mapping) else {}
            yield from _idle(value, default, f"{prefix}{f.name}.", inner)
        elif default is not MISSING and value != default:
            asked = [(config, rules)] if isinstance(rules, Applies) else []
            asked += [outer[name] for name in (f.name, "*") if name in outer]
            yield from ((prefix + f.name, rule.needs) for holder, rule in asked if not rule.when(holder))


def _default_of(f: Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


def listed(names: Iterable[str]) -> str:
    """Join names as a sentence does: `a, b or c`."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def require_numbers(value: Any, name: str) -> None:
    """Refuse what no option means: a number below 0, none at all, or one that a manifest cannot hold.

    Raises:
        ConfigError: One is negative, infinite, not a number, or an integer of more than 64 bits.
    """
    if is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            require_numbers(getattr(value, f.name), f"{name}.{f.name}".lstrip("."))
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            require_numbers(item, name)
    elif isinstance(value, (int, float)) and not 0 <= value < math.inf:
        raise ConfigError(f"{name} is {value}, and must be a number from 0", remedy=f"Give --{name} another value.")
    elif isinstance(value, int) and value >= 2**64:  # JSON, and so a manifest, holds 64 bits here
        problem = f"{name} is {value}, and must be less than 2 to the power of 64"
        raise ConfigError(problem, remedy=f"Give --{name} another value.")


def require_positive(config: Any, *names: str, prefix: str = "") -> None:
    """Refuse numbers of a configuration that must be above 0; what is left out (None) passes.

    Raises:
        ConfigError: One of them is 0 or less.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            problem = f"{prefix}{name} is {value}, and must be above 0"
            raise ConfigError(problem, remedy=f"Give another --{prefix}{name}, or leave it out.")
