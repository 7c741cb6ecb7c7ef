"""A recipe's variables: what they stand for, how they are filled in, and what a recipe needs from outside.

vars:
  data: "${demo}"               # text, a number, true or false, or a list; `--var data=DIR` gives another
  steps: 1000                   # a whole number: `--var steps=many` is refused
  init:                         # a file or folder from outside, without which nothing starts
    what: BioBERT v1.0
    from: github.com/naver/biobert-pretrained
    licence: Apache-2.0
    like: {shape: bert, size: base, vocab_size: 28996}      # of a model, for plans where it is not there
"""

import difflib
import filecmp
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from biomlm.core.errors import ConfigError
from biomlm.launch.resolve import KINDS, Document, kind
from biomlm.launch.sourced import Place, Value

RECORDS = Path(__file__).parent / "records"  # a link to demo/data in a clone
CLONE = Path("demo/data")

BUILT_IN = ("out", "recipe", "demo")
ABOUT_KEYS = ("what", "from", "licence")
NEED_KEYS = ("default", *ABOUT_KEYS, "like")
MOST = 1_000_000  # characters and items of a value with its variables filled in
VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Need:
    """Something from outside that a recipe cannot do without.

    Args:
        path: A path or a glob; empty where a variable has not been given.
        variable: The variable that stands for it, if one does.
        named: The variable that it is given by: that one, or the first in its path; empty for a path that is written out.
        what: What it is.
        origin: Where to get it.
        licence: Under which licence.
        like: Of a model: its shape, as options of `model`, and its `vocab_size`, for plans where it is not there.
        place: Where the recipe asks for it.
    """

    path: str
    place: Place
    variable: str = ""
    what: str = ""
    origin: str = ""
    licence: str = ""
    named: str = ""
    like: Mapping[str, Any] = field(default_factory=dict)


def records() -> Path:
    """Find the folder of the records that come with biomlm: as a clone names it, where the current folder is one."""
    same = (CLONE / "README.md").is_file() and filecmp.cmp(CLONE / "README.md", RECORDS / "README.md", shallow=False)
    return CLONE if same else RECORDS


def settle(document: Document, given: Iterable[str], out: Path) -> tuple[dict[str, Any], list[Need]]:
    """Give every variable its value, and list what must be there before the first stage.

    Args:
        document: The recipe.
        given: `NAME=VALUE` words of the command line.
        out: The launch's output folder.

    Raises:
        ConfigError: There is no such variable, or it is another kind of thing.
    """
    values: dict[str, Any] = {"out": str(out), "demo": str(records())}
    declared = document.entries.get("vars") or Value({}, Place(document.files[0], 1))
    for name, variable in declared.entries.items():
        if name in BUILT_IN:
            raise variable.refused(f"`{name}` is no name for a variable", f"Use others than {', '.join(BUILT_IN)}.")
        kind(variable)
    chosen: dict[str, Value | None] = {name: _default(variable) for name, variable in declared.entries.items()}
    chosen |= _given(document, declared, given)
    for name in chosen:
        _settle(name, chosen, values, ())
    needs: list[Need] = []
    for name, variable in declared.entries.items():
        if isinstance(variable.data, dict):
            needs += _needs(variable, values, name, None if chosen[name] is None else values[name])
    inputs = document.entries.get("inputs")
    for value in inputs.items if inputs else ():
        needs += _needs(value, values)
    return values, needs


def _default(variable: Value) -> Value | None:
    return variable.data.get("default") if isinstance(variable.data, dict) else variable


def _settle(name: str, chosen: Mapping[str, Value | None], values: dict[str, Any], behind: tuple[str, ...]) -> None:
    """Give a variable its value, and first those that it names; one that nobody has given a value stands for its own name."""
    value = chosen[name]
    if name in values or value is None:
        values.setdefault(name, f"<{name}>")
        return
    for other in _names_in(value):
        if other in (*behind, name):
            circle = " → ".join((*behind, name, other)[(*behind, name).index(other) :])
            raise value.refused(f"variables name each other in a circle: {circle}", "Let one of them stand alone.")
        if other in chosen:
            _settle(other, chosen, values, (*behind, name))
    values[name] = fill(value, values)


def _names_in(value: Value) -> list[str]:
    """List the variables in a value's text."""
    return VARIABLE.findall(" ".join(str(leaf.plain) for _, leaf in value.leaves()))


def _given(document: Document, declared: Value, words: Iterable[str]) -> Iterator[tuple[str, Value]]:
    seen: set[str] = set()
    for word in words:
        name, equals, text = word.partition("=")
        if name in seen:
            raise ConfigError(f"--var gives {name} twice", file=document.files[0], remedy="Keep one of the two.")
        seen.add(name)
        if not equals and name in declared.entries:
            raise ConfigError(
                f"`--var {name}` gives no value", file=document.files[0], remedy=f"Write --var {name}=VALUE."
            )
        if name not in declared.entries:
            names = ", ".join(declared.entries) or "none"
            problem = f"the recipe has no variable for `--var {word}`"
            raise ConfigError(problem, file=document.files[0], remedy=f"It has: {names}.")
        variable = declared.entries[name]
        wanted = kind(variable)
        value = Value(text if wanted == KINDS[str] else _typed(text, wanted), variable.place)
        if isinstance(value.data, list):
            value = Value([Value(item, variable.place) for item in value.data], variable.place)
        if wanted == KINDS[float] and type(value.data) is int:
            value = Value(float(value.data), variable.place)
        if kind(value) != wanted:
            raise variable.refused(
                f"`--var {word}`: {name} must be {wanted}", f"Give {wanted}, such as {variable.plain}."
            )
        yield name, value


def _typed(text: str, wanted: str) -> Any:
    """Read a variable's value from the command line; a lone word stands for a list of it."""
    try:
        value = yaml.safe_load(text)
        if wanted == KINDS[float] and isinstance(value, str):
            return float(value)  # YAML reads 1e-4 as text
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    if wanted == KINDS[list] and not isinstance(value, list):
        return [text]
    return value if isinstance(value, tuple(KINDS)) else text


def _needs(value: Value, values: Mapping[str, Any], variable: str = "", given: Any = None) -> Iterator[Need]:
    """Yield what an entry of `inputs`, or a variable that stands for a file from outside, asks for."""
    about: dict[str, str] = {}
    like: dict[str, Any] = {}
    if isinstance(value.data, dict):
        known = NEED_KEYS if variable else ("path", *ABOUT_KEYS)
        odd = next(
            (
                entry.refused(f"there is no key `{key}` here", f"The keys are {', '.join(known)}.")
                for key, entry in value.data.items()
                if key not in known
            ),
            None,
        )
        if odd is not None:
            raise odd
        about = {key: str(fill(value.data[key], values)) for key in ABOUT_KEYS if key in value.data}
        like = {name: item.plain for name, item in value.data["like"].entries.items()} if "like" in value.data else {}
        if not variable and "path" not in value.data:
            raise value.refused("an input needs its `path`", f"The keys are {', '.join(known)}.")
        given = given if variable else fill(value.data["path"], values)
    else:
        given = fill(value, values)
    for path in given if isinstance(given, list) else [given]:
        yield Need(
            path="" if path is None else str(path),
            place=value.place,
            variable=variable,
            what=about.get("what", ""),
            origin=about.get("from", ""),
            licence=about.get("licence", ""),
            like=like,
            named=variable or next((name for name in _names_in(value) if name not in BUILT_IN), ""),
        )


def fill(value: Value, values: Mapping[str, Any]) -> Any:
    """Replace `${name}` in every string of a value, which comes back without its places.

    Raises:
        ConfigError: There is no such variable, a list stands inside of a text, or the value grows beyond `MOST`.
    """
    if isinstance(value.data, (dict, list)):
        left, items = MOST, list[Any]()
        for item in value.data.values() if isinstance(value.data, dict) else value.data:
            items.append(fill(item, values))
            left -= _size(items[-1])
            if left < 0:
                raise _endless(value)
        return dict(zip(value.data, items, strict=True)) if isinstance(value.data, dict) else items
    if not isinstance(value.data, str):
        return value.data
    values = {**values, "recipe": str(value.place.file.parent)}
    if "${" in VARIABLE.sub("", value.data):
        raise value.refused("a variable is not closed", "Write ${NAME}.")
    for name in VARIABLE.findall(value.data):
        if name not in values:
            close = difflib.get_close_matches(name, values, n=1, cutoff=0.5)
            hint = f"Did you mean ${{{close[0]}}}?" if close else "Declare it under `vars`."
            raise value.refused(f"there is no variable ${{{name}}}", hint)
        if isinstance(values[name], list) and value.data != f"${{{name}}}":
            raise value.refused(f"${{{name}}} is a list, and stands inside of a text", "Let it stand alone.")
    if sum(len(str(values[name])) for name in VARIABLE.findall(value.data)) > MOST:
        raise _endless(value)
    alone = VARIABLE.fullmatch(value.data)
    return values[alone[1]] if alone else VARIABLE.sub(lambda match: str(values[match[1]]), value.data)


def _size(value: Any) -> int:
    """Count the characters of a value that is filled in, and each item as one more."""
    if isinstance(value, (dict, list)):
        return 1 + sum(map(_size, value.values() if isinstance(value, dict) else value))
    return 1 + (len(value) if isinstance(value, str) else 0)


def _endless(value: Value) -> ConfigError:
    return value.refused(
        f"with its variables filled in this has over {MOST:,} characters", "Let variables not multiply."
    )
