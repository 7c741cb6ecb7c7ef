"""Recipes: a YAML file that lists the stages of a whole job, and how it is read.

    description: What comes out.
    vars: {data: demo/data}                    # any names; `--var data=DIR` overrides them
    inputs: ["${data}/pubmed"]                 # must be there before the first stage starts
    stages:
      - name: corpus                           # names the log, OUT/logs/corpus.log
        verb: corpus build
        args: {pubmed: ["${data}/pubmed"], out: "${out}/corpus"}
        smoke: {limit: 100}                    # laid over args at --scale smoke
        minutes: 0.5                           # its share of the time, for the estimate of the time left
        slurm: {time: "2:00:00"}               # laid over --slurm.… for this stage (docs/scaling.md)

`${out}` is the launch's output folder and `${recipe}` the folder of the recipe file. What a stage depends on is not written down
twice: a path under `${out}` belongs to the first stage that names it, and the later ones that name it, or something in it, read it.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from biomlm.core.config import yaml_errors
from biomlm.core.errors import ConfigError
from biomlm.core.fleet import Fleet
from biomlm.core.verbs import VERBS

SHIPPED = Path(__file__).parent / "recipes"

RECIPE_KEYS = ("description", "vars", "inputs", "stages")
STAGE_KEYS = ("name", "verb", "args", "smoke", "minutes", "slurm")
TRAINING = ("pretrain", "distill")  # verbs that run on all GPUs
STAGE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Stage:
    """One command of a recipe, its variables filled in.

    Args:
        name: Unique in the recipe; names the log.
        verb: A verb of `biomlm`, such as `corpus build`.
        args: Options of the verb; nested mappings are dotted options.
        minutes: Expected share of the wall time at full scale.
        outputs: Paths under the output folder that this stage is the first to name.
        reads: Names of the earlier stages whose outputs it names.
        line: Where the stage stands in the recipe file.
        slurm: What its batch job wants that others do not.
    """

    name: str
    verb: str
    args: dict[str, Any]
    minutes: float
    outputs: tuple[Path, ...]
    reads: tuple[str, ...]
    line: int
    slurm: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """The command line behind `biomlm`."""
        return [*self.verb.split(), *_flags(self.args)]


@dataclass(frozen=True)
class Recipe:
    """A recipe with its variables filled in.

    Args:
        name: The file's name without `.yaml`.
        file: The recipe file.
        description: What comes out, in the recipe's own words.
        out: The launch's output folder, as `${out}` gives it.
        inputs: Paths that must exist before the first stage.
        stages: In the order in which they run.
    """

    name: str
    file: Path
    description: str
    out: Path
    inputs: tuple[Path, ...]
    stages: tuple[Stage, ...]


def find(name: str) -> Path:
    """The file of a shipped recipe's name or of a path.

    Raises:
        ConfigError: There is neither.
    """
    if (path := Path(name)).is_file():
        return path
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    if name not in shipped:
        close = difflib.get_close_matches(name, shipped, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Give a YAML file, or one of: {', '.join(shipped)}."
        raise ConfigError("there is no such recipe", file=name, remedy=hint)
    return shipped[name]


def read(name: str, out: str, scale: str = "full", variables: Iterable[str] = (), fleet: Fleet | None = None) -> Recipe:
    """Read a recipe and fill in its variables.

    Args:
        name: A shipped recipe's name or a path.
        out: The value of `${out}`.
        scale: `smoke` lays each stage's `smoke` over its `args`.
        variables: `NAME=VALUE` for variables that the recipe declares.
        fleet: Its options are laid under those of training stages.

    Raises:
        ConfigError: The recipe is missing, is not YAML, or holds an unknown or ill-typed key, verb or variable.
    """
    file = find(name)
    node, raw = _load(file)
    _check_keys(file, node, RECIPE_KEYS, "")
    stage_nodes = _stage_nodes(file, node)
    given = _given(file, raw.get("vars") or {}, variables)
    folder = Path.cwd() if Path(out) == Path() else Path(out)
    values = {"out": str(folder), "recipe": str(file.parent)}
    for key, value in given.items():
        values[key] = _fill(str(value), values, file, None)
    inputs = tuple(Path(_fill(str(path), values, file, None)) for path in raw.get("inputs") or [])
    stages: list[Stage] = []
    for stage_node, entry in zip(stage_nodes, raw["stages"], strict=True):
        stages.append(_stage(file, stage_node, _suited(entry, fleet), values, scale, stages))
    return Recipe(file.stem, file, str(raw.get("description", "")).strip(), folder, inputs, tuple(stages))


def _load(file: Path) -> tuple[yaml.MappingNode, dict[str, Any]]:
    """The recipe twice: as nodes, which know their lines, and as values."""
    with yaml_errors(file, "Give a recipe in YAML."):
        text = file.read_text(encoding="utf-8")
        node, raw = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(
            "a recipe is a mapping with `stages`", file=file, remedy="`biomlm launch plan demo` shows one."
        )
    return node, raw


def _at(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _check_keys(file: Path, node: yaml.MappingNode, known: tuple[str, ...], of: str) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.value not in known:
            close = difflib.get_close_matches(str(key.value), known, n=1, cutoff=0.5)
            hint = f"Did you mean {close[0]}?" if close else f"The keys are {', '.join(known)}."
            raise ConfigError(f"there is no key `{key.value}`{of}", file=file, record=_at(key), remedy=hint)
        if key.value in seen:
            raise ConfigError(f"`{key.value}` stands twice{of}", file=file, record=_at(key), remedy="Remove one.")
        seen.add(key.value)


def _stage_nodes(file: Path, node: yaml.MappingNode) -> list[yaml.MappingNode]:
    stages = next((value for key, value in node.value if key.value == "stages"), None)
    if not isinstance(stages, yaml.SequenceNode) or not stages.value:
        raise ConfigError("a recipe needs a list `stages`", file=file, remedy="`biomlm launch plan demo` shows one.")
    for stage in stages.value:
        if not isinstance(stage, yaml.MappingNode):
            raise ConfigError("a stage is a mapping", file=file, record=_at(stage), remedy="Give it a name and a verb.")
        _check_keys(file, stage, STAGE_KEYS, " in a stage")
    return list(stages.value)


def _given(file: Path, declared: Any, variables: Iterable[str]) -> dict[str, Any]:
    if not isinstance(declared, dict) or {"out", "recipe"} & declared.keys():
        raise ConfigError("`vars` is a mapping of names other than out and recipe", file=file, remedy="Mend `vars`.")
    given = dict(declared)
    for word in variables:
        name, equals, value = word.partition("=")
        if not equals or name not in declared:
            names = ", ".join(declared) or "none"
            raise ConfigError(f"the recipe has no variable for `--var {word}`", file=file, remedy=f"It has: {names}.")
        given[name] = value
    return given


def _fill(value: Any, values: Mapping[str, str], file: Path, line: str | None) -> Any:
    """Replace `${name}` in every string of a value."""
    if isinstance(value, dict):
        return {key: _fill(item, values, file, line) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, values, file, line) for item in value]
    if not isinstance(value, str):
        return value
    for name in VARIABLE.findall(value):
        if name not in values:
            close = difflib.get_close_matches(name, values, n=1, cutoff=0.5)
            hint = f"Did you mean ${{{close[0]}}}?" if close else "Declare it under `vars`."
            raise ConfigError(f"there is no variable ${{{name}}}", file=file, record=line, remedy=hint)
    return VARIABLE.sub(lambda match: values[match[1]], value)


def _stage(
    file: Path, node: yaml.MappingNode, raw: dict[str, Any], values: Mapping[str, str], scale: str, earlier: list[Stage]
) -> Stage:
    line = _at(node)

    def refuse(problem: str, remedy: str) -> ConfigError:
        return ConfigError(problem, file=file, record=line, remedy=remedy)

    name, verb = str(raw.get("name", "")), str(raw.get("verb", ""))
    if not STAGE_NAME.fullmatch(name) or any(stage.name == name for stage in earlier):
        raise refuse(f"a stage cannot be named `{name}`", "Use a name of a-z, 0-9, - and _ that no other stage has.")
    if verb not in VERBS or verb == "adapt" or verb.startswith("launch"):
        close = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.5)
        raise refuse(
            f"stage {name}: there is no verb `{verb}`", f"Did you mean {close[0]}?" if close else "See biomlm."
        )
    args, smoke, minutes = raw.get("args") or {}, raw.get("smoke") or {}, raw.get("minutes", 1)
    slurm = raw.get("slurm") or {}
    if not all(isinstance(mapping, dict) for mapping in (args, smoke, slurm)):
        raise refuse(
            f"stage {name}: `args`, `smoke` and `slurm` are mappings of options", "Write `option: value` lines."
        )
    if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or minutes <= 0:
        raise refuse(f"stage {name}: `minutes` must be a positive number", "Give the minutes that it takes.")
    args = _fill(_over(args, smoke) if scale == "smoke" else args, values, file, line)
    outputs, reads = _paths(args, Path(values["out"]), earlier)
    return Stage(name, verb, args, float(minutes), outputs, reads, node.start_mark.line + 1, slurm)


def _suited(entry: dict[str, Any], fleet: Fleet | None) -> dict[str, Any]:
    """A stage as the recipe has it, on top of the options that suit the fleet if it trains."""
    args = entry.get("args") or {}
    if fleet is None or entry.get("verb") not in TRAINING or not isinstance(args, dict):
        return entry
    return {**entry, "args": _over(fleet.options, args)}


def _over(args: dict[str, Any], smoke: dict[str, Any]) -> dict[str, Any]:
    both = dict(args)
    for key, value in smoke.items():
        below = both.get(key)
        both[key] = _over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return both


def strings(value: Any) -> Iterator[str]:
    """Every string in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def _paths(args: dict[str, Any], out: Path, earlier: list[Stage]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """A stage's own outputs, and the names of the stages it reads from."""
    own: dict[Path, None] = {}
    reads: dict[str, None] = {}
    for word in strings(args):
        path = Path(word)
        if path != out and out not in path.parents:
            continue
        makers = [
            s.name
            for s in earlier
            for output in s.outputs
            if path in (output, *output.parents) or output in path.parents
        ]
        reads |= dict.fromkeys(makers)
        if not makers and path != out:
            own[path] = None
    return tuple(own), tuple(reads)


def _flags(args: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Options as words: a list gives several values, a mapping dotted names, true a bare flag."""
    for key, value in args.items():
        flag = f"--{prefix}{key}"
        if isinstance(value, dict):
            yield from _flags(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            if not all(isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in value):
                yield f"{flag}={json.dumps(value)}"
                continue
            words = [str(item) for item in value]
            plain = words and not any(word.startswith(("-", "[")) for word in words)
            yield from [flag, *words] if plain else [f"{flag}={json.dumps(words)}"]
        elif value is True:
            yield flag
        elif value is None or value is False:
            yield from (flag, "null" if value is None else "false")
        elif str(value).startswith("-"):
            yield f"{flag}={value}"
        else:
            yield from (flag, str(value))
