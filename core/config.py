"""Configuration: frozen dataclasses, filled from `--config FILE.yaml` and dotted flags by jsonargparse.

Each room owns the dataclasses of its verbs; their field documentation becomes `--help`. jsonargparse checks the types. What this
module adds is what users trip over: an unknown key is named with its file, its line and the nearest right key; `--pubmed A B C`
takes several values; a bare `--flag` means true; the words before the first flag can be arguments (`convert SRC DST`).
"""

import argparse
import difflib
import json
import os
import re
import sys
import tempfile
import types
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from biomlm.core import option_names
from biomlm.core.errors import ConfigError
from biomlm.core.fields import _default_of, former_names, require_numbers, without_effect
from biomlm.core.files import write_text

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

T = TypeVar("T")

PACKAGE = Path(__file__).parents[1]
WHOLE = (int, int | None)
OWN_FLAGS = {"config", "print_config", "help"}


def variable(name: str, default: str = "") -> str:
    """Read the environment variable `BIOMLM_<name>`, or `BIOLM_<name>` as it was called up to 0.1."""
    return os.environ.get(f"BIOMLM_{name}", os.environ.get(f"BIOLM_{name}", default))


def fairseq_env() -> Path:
    """Return the environment that the real fairseq runs in: what `BIOMLM_FAIRSEQ_ENV` names, else `NAME-fairseq` beside this Python's.

    Never one of the current folder, which anybody may have put there: programs in it are run.
    """
    return Path(variable("FAIRSEQ_ENV", f"{sys.prefix}-fairseq")).absolute()


def keys(cls: type) -> dict[str, Any]:
    """Every dotted key of a configuration class → its type; a nested dataclass has an entry of its own."""
    types: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for f in fields(cls):
        types[f.name] = hints[f.name]
        if is_dataclass(hints[f.name]):
            types |= {f"{f.name}.{k}": t for k, t in keys(hints[f.name]).items()}
    return types


def parse(
    cls: type[T],
    argv: Sequence[str],
    *,
    prog: str,
    positionals: Sequence[str] = (),
    example: str = "",
    first: Sequence[str] = (),
    as_it_was: bool = False,
) -> T:
    """Build a configuration from the command line and the YAML files it names (later ones and flags win).

    Args:
        cls: A frozen dataclass with defaults for all that can have one.
        argv: The words after the verb.
        prog: The verb as the user types it, for `--help`.
        positionals: Fields that may be given without their flag, in order; the last may be a list.
        example: A command that works, shown by `--help`.
        first: The options that matter most, which `--help` shows first; those that must be given or are marked `first` if none are named.
        as_it_was: These are the settings of a folder that was made with them, maybe before options without effect were refused.

    Raises:
        ConfigError: An unknown key, a missing or ill-typed value, an option without effect, or a combination that the class refuses.
        SystemExit: After `--help` and `--print_config`.
    """
    with _known_words(cls, argv, positionals) as words:
        config = _parsed(cls, words, prog=prog, example=example, first=first)
    if not as_it_was:
        require_numbers(config, "")
        for name, needs in without_effect(config):
            raise ConfigError(f"--{name} has no effect here: it needs {needs}", remedy=f"Leave out {name}.")
    return config


def check_keys(cls: type, argv: Sequence[str]) -> None:
    """Refuse options that a configuration class does not have, whatever their values.

    Raises:
        ConfigError: There is one.
    """
    with _known_words(cls, argv, ()):
        pass


@contextmanager
def _known_words(cls: type, argv: Sequence[str], positionals: Sequence[str]) -> Iterator[list[str]]:
    """Give the command line as jsonargparse reads it, all its options known; copies of YAML files with former names live as long."""
    known = keys(cls)
    former = former_names(cls)
    argv = list(_config_files(argv, cls.__module__.partition(".")[2].partition(".")[0]))
    with tempfile.TemporaryDirectory() if former else nullcontext("") as scratch:
        words = list(_regular(_gathered(_renamed(argv, former, Path(scratch)), known), known, positionals))
        _check_keys(words, known)
        yield words


def _parsed(cls: type[T], argv: Sequence[str], *, prog: str, example: str, first: Sequence[str]) -> T:
    from jsonargparse import ArgumentParser  # a benchmark in a plain image parses nothing, and has none

    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} [--config FILE.yaml] [--option value …]",
        exit_on_error=False,
        epilog=f"example: {example}" if example else None,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below; flags win over it")
    parser.add_class_arguments(cls, as_group=True)
    _show_first(parser, first or [name for name in keys(cls) if _comes_first(cls, name)])
    try:
        values = parser.instantiate(parser.parse_args(argv))
    except argparse.ArgumentError as error:
        raise ConfigError(_one_line(str(error)), remedy=f"`{prog} --help` lists the options.") from None
    return cls(**{name: value for name, value in vars(values).items() if name in keys(cls)})


def _comes_first(cls: Any, name: str) -> bool:
    """Return whether a field must be given, or says of itself that it comes first."""
    return any(f.name == name and (_default_of(f) is MISSING or f.metadata.get("first")) for f in fields(cls))


def _show_first(parser: "ArgumentParser", names: Sequence[str]) -> None:
    """Put some options into a group of their own at the top of `--help`."""
    parser.add_argument_group("start with")
    groups: list[Any] = parser._action_groups  # type: ignore[assignment]
    groups.insert(0, groups.pop())
    start, *others = groups
    for name in names:
        for group in others:
            for action in [a for a in group._group_actions if a.dest == name]:
                group._group_actions.remove(action)
                start._group_actions.append(action)


def shipped_config(name: str, room: str) -> Path:
    """The file of a configuration that biomlm ships, by its name.

    Args:
        name: With or without `.yaml`.
        room: The room of the verb that it is for.

    Raises:
        ConfigError: That room has none of this name.
    """
    names = {path.stem: path for path in sorted((PACKAGE / room / "configs").glob("*.yaml"))}
    stem = name.removesuffix(".yaml")
    if stem in names:
        return names[stem]
    close = difflib.get_close_matches(stem, names, n=1)
    shipped = f"{room} ships {', '.join(names)}" if names else f"{room} ships none"
    hint = f"Did you mean {close[0]}?" if close else f"Give a YAML file; {shipped}."
    raise ConfigError("there is no such file, and no configuration of that name", file=name, remedy=hint)


def _config_files(argv: Sequence[str], room: str) -> Iterator[str]:
    """Put the file of a shipped configuration in the place of its name."""
    before = ""
    for word in argv:
        flag, equals, value = word.partition("=") if word.startswith("--config=") else ("", "", word)
        if (before == "--config" or equals) and value and not Path(value).exists():
            yield f"{flag}{equals}{shipped_config(value, room)}"
        else:
            yield word
        before = word


def _renamed(argv: Sequence[str], former: dict[str, str], scratch: Path) -> list[str]:
    """Put today's names in the place of former ones, in flags and in copies of the YAML files that have some."""
    words: list[str] = []
    for word in argv:
        name, equals, value = word.partition("=")
        words.append(f"--{former[name[2:]]}{equals}{value}" if name[2:] in former and word.startswith("--") else word)
        path = Path(value) if name == "--config" and equals else Path(word) if words[-2:-1] == ["--config"] else None
        if path is not None and path.is_file():
            copy = scratch / f"{len(words)}.yaml"
            with yaml_errors(path, "Give a YAML file to --config."):
                text = path.read_text(encoding="utf-8")
                refuse_doubles(yaml.compose(text, Loader=yaml.SafeLoader), path)
                today = _renamed_yaml(text, former)
            if today != text:
                copy.write_text(today, encoding="utf-8")
                words[-1] = f"--config={copy}" if equals else str(copy)
    return words


def _renamed_yaml(text: str, former: dict[str, str]) -> str:
    """Replace former keys in the text itself, so that every line keeps its number."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    waiting: list[tuple[str, yaml.Node | None]] = [("", root)]
    places: set[tuple[int, int, str]] = set()  # an alias shows one place several times
    while waiting:
        prefix, node = waiting.pop()
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            name = f"{prefix}{key.value}"
            if name in former:
                places.add((key.start_mark.index, key.end_mark.index, former[name].rsplit(".", 1)[-1]))
            waiting.append((f"{name}.", value))
    for start, end, name in sorted(places, reverse=True):
        text = text[:start] + name + text[end:]
    return text


def save(config: Any, path: str | Path) -> None:
    """Write a configuration as YAML that `--config` reads back."""
    write_text(path, yaml.safe_dump(_plain(asdict(config)), sort_keys=False, allow_unicode=True))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _is_list(kind: Any) -> bool:
    return typing.get_origin(kind) in (list, tuple) or any(
        _is_list(k) for k in typing.get_args(kind) if isinstance(kind, types.UnionType)
    )


def _regular(argv: Sequence[str], known: dict[str, Any], positionals: Sequence[str]) -> Iterator[str]:
    """Rewrite several values as one JSON list, bare booleans as true, and positional words as flags."""
    waiting, rest = list(positionals), list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if word == "-h" or not waiting:
                yield word
                continue
            rest, word = [word, *rest], f"--{waiting[0]}"
            if not _is_list(known[waiting[0]]):
                waiting.pop(0)
                yield f"{word}={rest.pop(0)}"
                continue
            waiting.pop(0)
        name, equals, value = word.partition("=")
        if equals and (_is_list(known.get(name[2:])) or known.get(name[2:]) in WHOLE):
            word, rest = name, [value, *rest]
        kind = known.get(word[2:])
        values: list[str] = []
        while rest and not rest[0].startswith("--") and (_is_list(kind) or not values):
            values.append(rest.pop(0))
        if _is_list(kind) and values and not values[0].startswith("["):
            yield f"{word}={json.dumps(values)}"
        elif kind is bool and not values:
            yield f"{word}=true"
        elif kind is bool and values[0] not in ("true", "false"):
            rest = values + rest
            yield f"{word}=true"
        elif values:
            yield f"{word}={_whole(values[0]) if kind in WHOLE else values[0]}"
        else:
            yield word


def _whole(text: str) -> str:
    """Write out a whole number in powers of ten, as people type it: 1e6, 2.5e5."""
    number = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?[eE]\+?[0-9]{1,2}", text) else 0.5
    return str(int(number)) if number.is_integer() else text


def _gathered(argv: Sequence[str], known: dict[str, Any]) -> list[str]:
    """Rewrite `--mix.weights.pubmed 2 --mix.weights.pmc 1` as one JSON mapping, where the first of them stands."""
    maps = [name for name, kind in known.items() if typing.get_origin(kind) is dict]
    words: list[str] = []
    mappings: dict[str, dict[str, Any]] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name = next((name for name in maps if word.startswith(f"--{name}.")), None)
        if name is None:
            words.append(word)
            continue
        key, equals, value = word[len(name) + 3 :].partition("=")
        if not equals and rest:
            value = rest.pop(0)
        if name not in mappings:
            words.append(f"--{name}=")
        mappings.setdefault(name, {})[key] = yaml.safe_load(value)
    return [
        f"{word}{json.dumps(mappings[word[2:-1]])}" if word[2:-1] in mappings and word[-1] == "=" else word
        for word in words
    ]


def _check_keys(argv: list[str], known: dict[str, Any]) -> None:
    lists: set[str] = set()
    for i, word in enumerate(argv):
        name, _, value = word.partition("=")
        if not name.startswith("--"):
            if name == "-h":
                continue
            raise ConfigError(
                f"`{word}` belongs to no option", remedy="Options start with --; quote a value with blanks in it."
            )
        if name[2:].rstrip("+") not in known.keys() | OWN_FLAGS:
            raise ConfigError(f"there is no option {name}", remedy=option_names.remedy(name[2:], known, "--"))
        if name in lists:
            raise ConfigError(
                f"{name} is given twice, and the first would not count",
                remedy=f"Give all values to one {name}, or the later ones to {name}+.",
            )
        if _is_list(known.get(name[2:])):
            lists.add(name)
        if name == "--config":
            _check_yaml(Path(value or (argv[i + 1] if i + 1 < len(argv) else "")), known)


@contextmanager
def yaml_errors(path: Path, remedy: str) -> Iterator[None]:
    """Say what is wrong with a YAML file, and on which line, as the user's mistake."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot read it ({error.strerror})", file=path, remedy=remedy) from None
    except UnicodeDecodeError:
        raise ConfigError("this is not UTF-8 text", file=path, remedy=remedy) from None
    except RecursionError:
        raise ConfigError("this is nested too deep", file=path, remedy=remedy) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark else None
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise ConfigError(
            f"this is not valid YAML: {problem}", file=path, record=line, remedy="Mend that line."
        ) from None


def _check_yaml(path: Path, known: dict[str, Any]) -> None:
    with yaml_errors(path, "Give a YAML file to --config."):
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError("a configuration must be `key: value` lines", file=path, remedy="See --print_config for one.")
    refuse_doubles(root, path)
    _check_mapping(root, "", path, known)


MOST_NODES = 100_000  # of a YAML file with its aliases written out


def refuse_doubles(root: yaml.Node | None, path: Path) -> None:
    """Refuse a mapping that has a key twice, of which YAML's readers would take the last without a word, dotted or nested.

    Raises:
        ConfigError: One does, or the file holds itself, or comes to too much with its aliases written out.
    """
    nodes = 0

    def walk(node: yaml.Node | None, prefix: str, outer: tuple[yaml.Node, ...], seen: set[str]) -> None:
        nonlocal nodes
        nodes += 1
        if node is None or isinstance(node, yaml.ScalarNode):
            return
        line = f"line {node.start_mark.line + 1}"
        if any(node is each for each in outer):
            raise ConfigError("this holds itself", file=path, record=line, remedy="Take its *alias out of it.")
        if nodes > MOST_NODES:
            problem = f"with its aliases written out this has over {MOST_NODES:,} values"
            raise ConfigError(problem, file=path, record=line, remedy="Take the *aliases out of it.")
        outer = (*outer, node)
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                walk(item, prefix, outer, set())
            return
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            if name in seen:
                line = f"line {key.start_mark.line + 1}"
                raise ConfigError(f"`{name}` stands twice", file=path, record=line, remedy="Keep one of the two.")
            seen.add(name)
            walk(value, f"{name}.", outer, seen)

    walk(root, "", (), set())


def _check_mapping(node: yaml.MappingNode, prefix: str, path: Path, known: dict[str, Any]) -> None:
    for key_node, value_node in node.value:
        name = f"{prefix}{key_node.value}"
        if name not in known:
            line = f"line {key_node.start_mark.line + 1}"
            raise ConfigError(
                f"there is no key `{name}`", file=path, record=line, remedy=option_names.remedy(name, known, "")
            )
        if is_dataclass(known[name]) and isinstance(value_node, yaml.MappingNode):
            _check_mapping(value_node, f"{name}.", path, known)


KINDS = {"<class 'int'>": "whole number", "<class 'float'>": "number", "<class 'str'>": "text", "Parser key": "option"}


def _one_line(message: str) -> str:
    for type_name, word in KINDS.items():
        message = message.replace(type_name, word)
    return " ".join(message.split()).rstrip(".")
