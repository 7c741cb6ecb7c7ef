"""Recipes: a YAML file that lists the stages of a whole job, and what it comes to when its variables are filled in.

    description: What comes out.
    vars: {data: "${demo}"}                    # any names; `--var data=DIR` overrides them
    inputs: ["${data}/pubmed"]                 # must be there before the first stage starts
    stages:
      - name: corpus                           # names the log, OUT/logs/corpus.log
        verb: corpus build
        config: NAME                           # a configuration of the verb's room, laid under args
        args: {pubmed: ["${data}/pubmed"], out: "${out}/corpus"}
        smoke: {limit: 100}                    # laid over args at --scale smoke
        minutes: 0.5                           # its share of the time, for the estimate of the time left
        slurm: {time: "2:00:00"}               # laid over --slurm.… for this stage (docs/scaling.md)
        expect: {…}                            # what must be true of its output (`launch.expect`)

`${out}` is the launch's output folder, `${recipe}` the folder of the file in which it stands, `${demo}` the records that come with biomlm.
What a stage depends on is not written down twice: a path under `${out}` belongs to the stage that has it as its output (`out`, `dst`,
`page`), and the later ones that name it, or something in it, read it. How files extend each other is `launch.resolve`'s.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biomlm.core.errors import ConfigError
from biomlm.core.fleet import Fleet
from biomlm.core.verbs import VERBS
from biomlm.launch.resolve import MAPPING_KEYS, Document, find, name_of, resolve
from biomlm.launch.sourced import Place, Value, merge
from biomlm.launch.variables import Need, fill, settle

OUTPUTS = ("out", "dst", "page")  # the options of all verbs that name what they write
STAGE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
SHOWING = {"help", "print_config"}  # options that print something and do nothing
NAME_AND_PATH = re.compile(r"[\w-]+=(.+)")
STAGE_VERBS = [verb for verb in VERBS if verb != "adapt" and not verb.startswith("launch")]


@dataclass(frozen=True)
class Stage:
    """One command of a recipe, its variables filled in.

    Args:
        name: Unique in the recipe; names the log.
        verb: A verb of `biomlm`, such as `corpus build`.
        args: Options of the verb; nested mappings are dotted options.
        place: Where the stage stands.
        minutes: Expected share of the wall time at full scale.
        outputs: Paths under the output folder that are this stage's.
        reads: Names of the earlier stages whose outputs it names.
        slurm: What its batch job wants that others do not.
        expect: What must be true of its output.
        options: Dotted option, and `slurm.NAME` → where its value stands.
        only_at_smoke: At full scale, its `smoke` and `expect`: they have no effect, and are checked.
    """

    name: str
    verb: str
    args: dict[str, Any]
    place: Place
    minutes: float = 1.0
    outputs: tuple[Path, ...] = ()
    reads: tuple[str, ...] = ()
    slurm: dict[str, Any] = field(default_factory=dict)
    expect: Value | None = None
    options: Mapping[str, Place] = field(default_factory=dict)
    only_at_smoke: Mapping[str, Value] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """Give the command line behind `biomlm`."""
        return [*self.verb.split(), *_flags(self.args)]

    @property
    def starts_processes(self) -> bool:
        """Whether its engine starts a process for each GPU of a machine by itself, so that it is started once there."""
        return self.args.get("engine") in VERBS[self.verb].own_processes

    def refused(self, problem: str, remedy: str) -> ConfigError:
        """Make the error about this stage, on the line of the option that it names, else on the stage's."""
        named = [name for name in self.options if re.search(rf"(^|--|`){re.escape(name)}(?![\w.])", problem)]
        place = self.options[max(named, key=len)] if named else self.place
        return ConfigError(f"stage {self.name}: {problem}", file=place.file, record=f"line {place.line}", remedy=remedy)


@dataclass(frozen=True)
class Recipe:
    """A recipe with its variables filled in.

    Args:
        name: A shipped recipe's name, or the file's without `.yaml`.
        file: The recipe file.
        description: What comes out, in the recipe's own words.
        out: The launch's output folder, as `${out}` gives it.
        needs: What must exist before the first stage.
        stages: In the order in which they run.
        published: What is known of the model that the recipe follows (docs/recipes.md).
    """

    name: str
    file: Path
    description: str
    out: Path
    needs: tuple[Need, ...]
    stages: tuple[Stage, ...]
    published: dict[str, Any] = field(default_factory=dict)


def default_out(name: str, scale: str) -> str:
    """Name the output folder of a recipe if none is given."""
    return f"runs/{name_of(find(name))}{'-smoke' if scale == 'smoke' else ''}"


def read(name: str, out: str, scale: str = "full", variables: Iterable[str] = (), fleet: Fleet | None = None) -> Recipe:
    """Read a recipe and fill in its variables.

    Args:
        name: A shipped recipe's name or a path.
        out: The value of `${out}`; `runs/NAME` if empty.
        scale: `smoke` lays what the recipe says of that scale over the rest.
        variables: `NAME=VALUE` for variables that the recipe declares.
        fleet: Its options are laid under those of training stages.

    Raises:
        ConfigError: The recipe is missing, is not YAML, or holds an unknown or ill-typed key, verb or variable.
    """
    file = find(name)
    document = resolve(file, scale)
    folder = Path(out or default_out(name, scale))
    folder = Path.cwd() if folder == Path() else folder
    for path in (file, folder):
        if not str(path).isprintable():
            raise ConfigError("a name with a line end, or what else cannot be shown", file=path, remedy="Rename it.")
    values, needs = settle(document, variables, folder)
    stages: list[Stage] = []
    for entry in document.stages.values():
        stages.append(_stage(entry, values, fleet, stages, document))
    description, published = document.entries.get("description"), document.entries.get("published")
    return Recipe(
        name=name_of(file),
        file=file,
        description=str(description.plain).strip() if description else "",
        out=folder,
        needs=tuple(needs),
        stages=tuple(stages),
        published=published.plain if published else {},
    )


def _stage(
    entry: Value, values: Mapping[str, Any], fleet: Fleet | None, earlier: list[Stage], document: Document
) -> Stage:
    entries = entry.entries
    name, verb = (str(entries[key].plain) if key in entries else "" for key in ("name", "verb"))
    if not STAGE_NAME.fullmatch(name):
        raise entry.refused(f"a stage cannot be named `{name}`", "Use a name of a-z, 0-9, - and _.")
    if verb not in STAGE_VERBS:
        close = difflib.get_close_matches(verb, STAGE_VERBS, n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]}?" if close else f"Stages have the verbs {', '.join(STAGE_VERBS)}."
        raise entry.refused(f"stage {name}: there is no verb `{verb}` for a stage", hint)
    only_at_smoke = document.only_at_smoke.get(name, {})
    for key, part in (entries | only_at_smoke).items():
        if key in MAPPING_KEYS and not isinstance(part.data, dict):
            raise part.refused(f"stage {name}: `{key}` must be a mapping", "Write `name: value` lines.")
    slurm, expect = entries.get("slurm"), entries.get("expect")
    named = {f"slurm.{key}": value.place for key, value in (slurm.entries if slurm else {}).items()}
    minutes = entries["minutes"].plain if "minutes" in entries else 1
    if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or minutes <= 0:
        raise entries["minutes"].refused(
            f"stage {name}: `minutes` must be a positive number", "Give the minutes that it takes."
        )
    args = entries["args"]
    if shown := args.entries.keys() & SHOWING:
        option = min(shown)
        raise args.entries[option].refused(f"stage {name}: `{option}` is no option of a stage", "Take it out.")
    if fleet is not None and VERBS[verb].gpus == "all":
        args = merge(_without_places(_options(verb, fleet, args, values), entry.place), args)
    filled = fill(args, values)
    outputs, reads = _paths(name, args, filled, Path(values["out"]), earlier, document, values)
    return Stage(
        name=name,
        verb=verb,
        args=filled,
        place=entry.place,
        minutes=float(minutes),
        outputs=outputs,
        reads=reads,
        slurm=slurm.plain if slurm else {},
        expect=expect,
        options={option: value.place for option, value in args.leaves()} | named,
        only_at_smoke=only_at_smoke,
    )


def _options(verb: str, fleet: Fleet, args: Value, values: Mapping[str, Any]) -> dict[str, Any]:
    """Give a fleet's options for a training stage; of kernels only to an engine that computes with ours."""
    engine = fill(args.entries["engine"], values) if "engine" in args.entries else ""
    own = engine in VERBS[verb].own_processes
    return {name: value for name, value in fleet.options.items() if not own or name != "compute"}


def _without_places(data: Any, place: Place) -> Value:
    if isinstance(data, dict):
        return Value({key: _without_places(item, place) for key, item in data.items()}, place)
    return Value(data, place)


def strings(value: Any) -> Iterator[str]:
    """Yield every string in nested lists and mappings; of `NAME=PATH`, as `finetune blurb` takes its runs, the path too."""
    if isinstance(value, str):
        yield value
        if named := NAME_AND_PATH.fullmatch(value):
            yield named[1]
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def _paths(
    name: str,
    args: Value,
    filled: dict[str, Any],
    out: Path,
    earlier: list[Stage],
    document: Document,
    values: Mapping[str, Any],
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Find a stage's own outputs, and the names of the stages it reads from.

    Raises:
        ConfigError: It reads what no stage before it makes.
    """
    own: dict[Path, None] = {}
    reads: dict[str, None] = {}
    for option, words in filled.items():
        for word in strings(words):
            path = Path(word)
            if path != out and out not in path.parents:
                continue
            if ".." in path.parts[len(out.parts) :]:
                raise args.entries[option].refused(
                    f"stage {name}: `..` in a path under ${{out}}", "Write the path without it."
                )
            makers = [
                s.name
                for s in earlier
                for output in s.outputs
                if path in (output, *output.parents) or output in path.parents
            ]
            reads |= dict.fromkeys(makers)
            if option == "out" and (same := [s.name for s in earlier if path in s.outputs]):
                raise args.entries[option].refused(
                    f"stage {name} has the `out` of stage {same[0]}", "Give it one of its own."
                )
            if makers or path == out:
                continue
            if option not in OUTPUTS:
                raise _unmade(name, args.entries[option], path, out, document, values)
            own[path] = None
    return tuple(own), tuple(reads)


def _unmade(
    name: str, value: Value, path: Path, out: Path, document: Document, values: Mapping[str, Any]
) -> ConfigError:
    """Make the error about a path that a stage reads and no stage before it makes."""
    problem = f"stage {name} reads ${{out}}/{path.relative_to(out)}, which "
    for stage, place in document.removed:
        outputs = [Path(word) for word in _output_words(stage, values)]
        if any(output == path or output in path.parents for output in outputs):
            maker = stage.entries["name"].text
            return value.refused(
                f"{problem}stage {maker} made, and {place} takes that away", "Read another, or keep that stage."
            )
    return value.refused(f"{problem}no stage before it makes", f"Make it with the {', '.join(OUTPUTS)} of a stage.")


def _output_words(stage: Value, values: Mapping[str, Any]) -> Iterator[str]:
    args = stage.entries.get("args")
    for option, value in (args.entries if args else {}).items():
        if option in OUTPUTS:
            yield from strings(fill(value, values))


def _flags(args: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield options as words: a list gives several values, a mapping dotted names, true a bare flag."""
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
