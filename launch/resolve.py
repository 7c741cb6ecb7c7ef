"""What a recipe file comes to: its parents under it, a stage replaced, added or removed by name, its scale, and shipped configurations.

extends: bio-lm/base-PM        # one parent: a shipped recipe's name, or a file beside this one
remove: [tokenizer]            # stages of the parent that this recipe does not have
stages:
  - name: pretrain             # of a stage that the parent has: laid over it, key by key
    args: {steps: 550000}
  - name: shards               # with a `verb`: in the place of the parent's
    verb: tokenizer encode
    …
  - name: fill                 # of a stage that it has not: added, at the end or `before:`/`after:` another
    verb: convert fill
    before: report
    …
smoke: {vars: …, inputs: …, remove: …, stages: …}      # laid over all that, parents' first, at --scale smoke
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from biomlm.core.config import shipped_config
from biomlm.core.errors import ConfigError
from biomlm.core.verbs import VERBS
from biomlm.launch.sourced import Place, Value, load, merge

SHIPPED = Path(__file__).parent / "recipes"
PATCH_KEYS = ("vars", "inputs", "remove", "stages")
RECIPE_KEYS = ("description", "extends", "published", *PATCH_KEYS, "smoke")
SMOKE_KEYS = ("smoke", "expect")  # of a stage, which have an effect at smoke scale alone
STAGE_KEYS = ("name", "verb", "config", "args", *SMOKE_KEYS, "minutes", "slurm", "before", "after")
MAPPING_KEYS = ("slurm", "expect")  # of a stage, which hold mappings


def shipped() -> dict[str, Path]:
    """List name → file of every shipped recipe; a file whose name begins with _ is a part that others extend, and no recipe itself."""
    files = sorted(SHIPPED.rglob("*.yaml"))
    return {_name(file): file for file in files if not file.name.startswith("_")}


def catalogue() -> dict[str, dict[str, str]]:
    """List system → its recipes' names → the first sentence of what each says of itself; recipes of no system come first."""
    systems: dict[str, dict[str, str]] = {"": {}}
    for name, file in shipped().items():
        description = resolve(file, "full").entries.get("description")
        sentence = re.split(r"(?<=\.)\s", str(description.plain).strip() if description else "")[0]
        systems.setdefault(name.rpartition("/")[0], {})[name] = sentence
    return systems


def find(name: str) -> Path:
    """Find the file of a shipped recipe's name or of a path.

    Raises:
        ConfigError: There is neither.
    """
    if (path := Path(name)).is_file():
        return path
    names = shipped()
    if name in names:
        return names[name]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]}?" if close else "Give a YAML file, or a name that `biomlm launch --list` shows."
    raise ConfigError("there is no such recipe", file=name, remedy=hint)


def name_of(file: Path) -> str:
    """Give a shipped recipe's name, with its system in front of it; else the file's name without `.yaml`."""
    return _name(file) if SHIPPED.resolve() in file.resolve().parents else file.stem


def _name(file: Path) -> str:
    return file.resolve().relative_to(SHIPPED.resolve()).with_suffix("").as_posix()


@dataclass
class Document:
    """A recipe with everything laid over its parents.

    Args:
        files: The recipe's file, then its parent's, and so on.
        entries: Top-level keys other than `stages`.
        stages: Name → stage, in the order in which they run.
        removed: The stages that are no longer there, with the place that removes or replaces each.
        only_at_smoke: Name → the stage's `smoke` and `expect` at full scale, where neither has an effect.
    """

    files: list[Path]
    entries: dict[str, Value] = field(default_factory=dict)
    stages: dict[str, Value] = field(default_factory=dict)
    removed: list[tuple[Value, Place]] = field(default_factory=list)
    only_at_smoke: dict[str, dict[str, Value]] = field(default_factory=dict)


def resolve(file: Path, scale: str) -> Document:
    """Read a recipe with its parents.

    Args:
        file: The recipe.
        scale: `smoke` lays its `smoke` keys over the rest.

    Raises:
        ConfigError: A file cannot be read, extends itself or what is not there, or says what no recipe says.
    """
    chain = list(_chain(file))
    document = Document([root.place.file for root in chain])
    for root in reversed(chain):
        _lay(document, root)
    if scale == "smoke":
        for root in reversed(chain):
            if "smoke" in root.entries:
                _lay(document, root.entries["smoke"])
    if not document.stages:
        raise chain[0].refused("a recipe needs a list `stages`", "`biomlm launch show demo` shows one.")
    if scale != "smoke":
        for name, stage in document.stages.items():
            document.only_at_smoke[name] = {key: stage.entries[key] for key in SMOKE_KEYS if key in stage.entries}
    document.stages = {name: _settled(stage, scale) for name, stage in document.stages.items()}
    return document


def _chain(file: Path) -> Iterator[Value]:
    """Yield the recipe, its parent, and so on."""
    seen: list[Path] = []
    while True:
        root = load(file, "Give a recipe in YAML.")
        if not isinstance(root.data, dict):
            raise root.refused("a recipe must be a mapping with `stages`", "`biomlm launch show demo` shows one.")
        _check_keys(root, RECIPE_KEYS, "")
        _check_stages(root)
        if "smoke" in root.entries:
            _check_keys(root.entries["smoke"], PATCH_KEYS, " in `smoke`")
            _check_stages(root.entries["smoke"])
        yield root
        seen.append(file.resolve())
        if "extends" not in root.entries:
            return
        parent = root.entries["extends"]
        file = _parent(parent, file)
        if file.resolve() in seen:
            circle = " → ".join(name_of(each) for each in (*seen[seen.index(file.resolve()) :], file))
            raise parent.refused(f"recipes extend each other in a circle: {circle}", "Let one of them stand alone.")


def _parent(value: Value, child: Path) -> Path:
    parts = {_name(file): file for file in SHIPPED.rglob("*.yaml")}
    name = value.text
    if name in parts:
        return parts[name]
    if name.endswith(".yaml") and (path := child.parent / name).is_file():
        return path
    close = difflib.get_close_matches(name, parts, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]}?" if close else "Give a shipped recipe's name, or a .yaml file beside this one."
    raise value.refused(f"there is no recipe `{name}` to extend", hint)


def _check_keys(value: Value, known: tuple[str, ...], of: str) -> None:
    for key, entry in value.entries.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"Did you mean {close[0]}?" if close else f"The keys are {', '.join(known)}."
            raise entry.refused(f"there is no key `{key}`{of}", hint)


def _check_stages(patch: Value) -> None:
    """Refuse what no stage says, and a name that two have."""
    named: set[str] = set()
    for stage in patch.entries["stages"].items if "stages" in patch.entries else ():
        if not isinstance(stage.data, dict):
            raise stage.refused("a stage must be a mapping", "Give it a name and a verb.")
        _check_keys(stage, STAGE_KEYS, " in a stage")
        name = _name_in(stage)
        if name in named:
            raise stage.refused(f"a stage cannot be named `{name}`", "Use a name that no other stage has.")
        named.add(name)


def _name_in(stage: Value) -> str:
    return stage.entries["name"].text if "name" in stage.entries else ""


def _lay(document: Document, patch: Value) -> None:
    """Lay a recipe, or its `smoke`, over what its parents came to."""
    entries = dict(patch.entries)
    entries.pop("smoke", None)
    entries.pop("extends", None)
    removed = entries.pop("remove", None)
    gone: dict[str, Place] = {}
    for entry in removed.items if removed else ():
        if entry.text in gone:
            raise entry.refused(f"stage {entry.text} is removed twice", "Name it once.")
        _remove(document, entry)
        gone[entry.text] = entry.place
    stages = entries.pop("stages", None)
    for stage in stages.items if stages else ():
        name = _name_in(stage)
        if name in gone and "verb" not in stage.entries:
            problem = f"stage {name} is changed here, and {gone[name]} removes it"
            raise stage.refused(problem, "Keep one of the two, or give a `verb` for a new stage.")
        _lay_stage(document, name, stage)
    for key, value in entries.items():
        if key == "vars":
            _check_kinds(document.entries.get(key), value)
        below = document.entries.get(key)
        document.entries[key] = merge(below, value) if below else value


def _remove(document: Document, name: Value) -> None:
    stage = document.stages.pop(name.text, None)
    if stage is None and name.text not in _gone(document):
        close = difflib.get_close_matches(name.text, document.stages, n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]}?" if close else f"The stages are {', '.join(document.stages) or 'none'}."
        raise name.refused(f"there is no stage `{name.text}` to remove", hint)
    if stage is not None:
        document.removed.append((stage, name.place))


def _gone(document: Document) -> set[str]:
    return {stage.entries["name"].text for stage, _ in document.removed}


def _lay_stage(document: Document, name: str, stage: Value) -> None:
    before, after = (stage.entries.get(key) for key in ("before", "after"))
    known = document.stages.get(name)
    if "verb" not in stage.entries:
        if known is None:
            if name in _gone(document):
                return  # a parent's `smoke` of a stage that the recipe has removed
            raise stage.refused(f"stage {name}: it has no verb, and no parent has a stage of that name", "Give a verb.")
        document.stages[name] = merge(known, stage)
    else:
        if known is not None:
            document.removed.append((known, stage.place))
        document.stages[name] = stage
    if before or after:
        if before and after:
            raise stage.refused(f"stage {name}: it stands `before` one stage or `after` one", "Leave one of them out.")
        document.stages = _moved(document.stages, name, before or after, behind=after is not None)


def _moved(stages: dict[str, Value], name: str, anchor: Value | None, *, behind: bool) -> dict[str, Value]:
    """Give the stages with one of them put before or behind another."""
    assert anchor is not None
    names = [each for each in stages if each != name]
    if anchor.text not in names:
        raise anchor.refused(f"there is no other stage `{anchor.text}`", f"The stages are {', '.join(names)}.")
    names.insert(names.index(anchor.text) + behind, name)
    return {each: stages[each] for each in names}


def _check_kinds(below: Value | None, above: Value) -> None:
    """Refuse a variable that is another kind of thing than in the parent."""
    for name, value in above.entries.items():
        if below is not None and name in below.entries and kind(below.entries[name]) != kind(value):
            wanted = kind(below.entries[name])
            raise value.refused(f"variable {name} must be {wanted}, and not {kind(value)}", f"Give {wanted}.")


KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}


def kind(variable: Value) -> str:
    """Tell what kind of thing a variable holds; one that stands for a file from outside is text."""
    if isinstance(variable.data, dict):
        return kind(variable.entries["default"]) if "default" in variable.entries else KINDS[str]
    if type(variable.data) not in KINDS:
        raise variable.refused("a variable must be text, a number, true or false, or a list", "Give it a value.")
    return KINDS[type(variable.data)]


def _settled(stage: Value, scale: str) -> Value:
    """Make the stage whose `config` lies under its `args`, and whose `smoke` over them at that scale."""
    entries = dict(stage.entries)
    config, smoke = entries.pop("config", None), entries.pop("smoke", None)
    for key in ("before", "after", *(() if scale == "smoke" else ("expect",))):
        entries.pop(key, None)
    args = entries.get("args") or Value({}, stage.place)
    for part in (args, smoke):
        if part is not None and not isinstance(part.data, dict):
            name = entries["name"].plain if "name" in entries else ""
            raise part.refused(
                f"stage {name}: `args` and `smoke` must be mappings of options", "Write `option: value` lines."
            )
    if config is not None:
        args = merge(_configuration(config, entries.get("verb")), args)
    if smoke is not None and scale == "smoke":
        args = merge(args, smoke)
    return Value(entries | {"args": args}, stage.place)


def _configuration(config: Value, verb: Value | None) -> Value:
    """Load a stage's configuration: the name of one that its verb's room ships, or a file beside the recipe."""
    name = config.text
    if name.endswith(".yaml"):
        path = config.place.file.parent / name
        if not path.is_file():
            raise config.refused(
                f"there is no file {path}", "Name a .yaml file beside the recipe, or a shipped configuration."
            )
    else:
        known = VERBS.get(verb.text) if verb else None
        if known is None:
            return Value({}, config.place)  # the verb is refused where stages are checked
        try:
            path = shipped_config(name, known.room)
        except ConfigError as error:
            raise config.refused(f"there is no configuration `{name}`", error.remedy) from None
    return load(path, "Name a configuration that is shipped, or a .yaml file beside the recipe.")
