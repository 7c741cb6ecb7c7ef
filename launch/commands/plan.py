"""`biomlm launch plan RECIPE`: check a recipe, show its commands and, for a fleet, what training needs; nothing is run."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from biomlm.core import config as configuration
from biomlm.core.errors import ConfigError, DataError, UserError
from biomlm.core.fields import only, require_positive
from biomlm.core.files import read_json
from biomlm.core.fleet import Before, Fleet, find
from biomlm.core.summary import summary
from biomlm.core.verbs import VERBS
from biomlm.launch.backends.local import shown
from biomlm.launch.backends.slurm import SlurmConfig
from biomlm.launch.expectations import check as expectations
from biomlm.launch.recipe import Recipe, Stage, read
from biomlm.launch.variables import Need


@dataclass(frozen=True)
class PlanConfig:
    """What a recipe would run.

    Args:
        recipe: A shipped recipe's name, or a YAML file.
        out: The output folder, as the commands name it.
        scale: `smoke` shows the small version of the recipe; `paper` is another word for `full`.
        var: `NAME=VALUE` for variables that the recipe declares.
        fleet: GPUs to plan for, such as `v100-32gb` or `4 x a100-80gb`: memory, time and disk of every stage that trains or asks a teacher.
        vocab_size: Pieces of the vocabulary, if no stage of the recipe learns it.
        measured: A finished run of `biomlm pretrain` or `biomlm distill` on such a GPU, whose utilisation replaces the estimate.
    """

    recipe: str
    out: str = field(default="runs/plan", metadata={"runtime": True})
    scale: Literal["full", "smoke", "paper"] = "full"
    var: list[str] = field(default_factory=list)
    fleet: str = ""
    vocab_size: int = only(50_048, lambda c: bool(c.fleet), "--fleet")
    measured: str = only("", lambda c: bool(c.fleet), "--fleet", former="")

    def __post_init__(self) -> None:
        require_positive(self, "vocab_size")
        if self.scale == "paper":
            object.__setattr__(self, "scale", "full")


def check(recipe: Recipe) -> list[Any]:
    """Check every stage's options, and what it says for batch jobs and for smoke scale, before the first one is run.

    Returns:
        The configuration of each stage.

    Raises:
        ConfigError: A verb refuses its options; the message names the recipe's line.
    """
    for need in recipe.needs:
        _like(need)
    unset = [need.variable for need in recipe.needs if need.variable and not need.path]
    return [_checked(stage, unset) for stage in recipe.stages]


def _checked(stage: Stage, unset: list[str]) -> Any:
    verb = VERBS[stage.verb]
    expectations.require_known(stage)
    SlurmConfig().of(stage)
    smoke = stage.only_at_smoke.get("smoke")
    for option, value in smoke.leaves() if smoke else ():
        try:
            configuration.check_keys(verb.config, [f"--{option}={value.plain}"])
        except ConfigError as error:
            raise value.refused(f"stage {stage.name}: {error.problem}", error.remedy) from None
    try:
        return parsed(stage)
    except ConfigError as error:
        name = next((name for name in unset if f"<{name}>" in error.problem), None)
        raise stage.refused(error.problem, f"Give it: --var {name}=VALUE." if name else error.remedy) from None


def _like(need: Need) -> Any:
    """Give the configuration that would make a model of the shape of one from outside; None where its shape is not said."""
    shape = {name: value for name, value in need.like.items() if name != "vocab_size"}
    args = {"shards": "S", "out": "O", "model": shape}
    return parsed(Stage(need.variable, "pretrain", args, need.place)) if shape else None


def parsed(stage: Stage) -> Any:
    """Parse a stage's configuration."""
    verb, words = VERBS[stage.verb], stage.words[len(stage.verb.split()) :]
    return configuration.parse(verb.config, words, prog=f"biomlm {stage.verb}", positionals=verb.positionals)


def takes_override(stage: Stage) -> bool:
    """Whether a stage's verb can go on in a folder of another configuration."""
    return "override" in configuration.keys(VERBS[stage.verb].config)


def check_needs(recipe: Recipe) -> None:
    """Refuse to start without what the recipe needs from outside.

    Raises:
        DataError: Something of it is not there; where to get it is said, and its licence.
    """
    missing = next((need for need in recipe.needs if not is_there(need.path)), None)
    if missing is None:
        return
    origin = f" from {missing.origin}" if missing.origin else ""
    licence = f" (licence: {missing.licence})" if missing.licence else ""
    get = f"Get it{origin}{licence}" if origin or licence else "Start in the folder that holds it"
    say = f"say where it is with --var {missing.named}=PATH" if missing.named else "put it where the recipe has it"
    raise DataError(
        f"recipe {recipe.name} needs {missing.what or missing.path or missing.variable}, and it is not there",
        file=missing.path or missing.place.file,
        record=None if missing.path else f"line {missing.place.line}",
        remedy=f"{get}, or {say}." if not origin and not licence else f"{get}, then {say}.",
    )


def is_there(path: str) -> bool:
    """Whether a path exists, or a glob has matches; an empty one is not there."""
    anchor = Path(path).anchor
    return bool(path) and (
        Path(path).exists() or (bool(set("*?[") & set(path)) and any(Path(anchor).glob(path[len(anchor) :])))
    )


def table(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """Yield number and name, command, and what it waits for, of every stage."""
    for number, stage in enumerate(recipe.stages, 1):
        yield f"{number} {stage.name}", shown(stage.words), ", ".join(stage.reads) or "–"


def run(config: PlanConfig) -> None:
    """Check a recipe and print its stages."""
    fleet = find(config.fleet) if config.fleet else None
    if fleet is not None and config.measured:
        fleet = replace(fleet, measured=reached(config.measured, fleet))
    recipe = read(config.recipe, config.out, config.scale, config.var, fleet)
    configs = check(recipe)
    width = None if sys.stdout.isatty() else 160
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=width)
    console.print(f"{recipe.name} ({config.scale}): {recipe.description}\n")
    stages = Table("stage", "command", "after", "minutes", box=None, pad_edge=False, header_style="dim")
    for (name, command, after), stage in zip(table(recipe), recipe.stages, strict=True):
        stages.add_row(name, command, after, f"{stage.minutes:g}")
    console.print(stages)
    if fleet is not None:
        for stage, rows in estimates(recipe, configs, fleet, config.vocab_size):
            summary(f"{stage.name} ({stage.verb})", rows)


def reached(run: str, fleet: Fleet) -> float:
    """Read the share of the datasheet's products that a finished run has reached in 16 bits on a fleet's kind of GPU.

    Raises:
        DataError: It is not finished, or ran on something else.
    """
    file = Path(run) / "result.json"
    result = read_json(file, remedy="Give the folder of a finished run of biomlm pretrain or distill.")
    mfu, gpu, precision = result.get("mfu"), result.get("gpu"), result.get("precision")
    if not isinstance(mfu, float) or not 0 < mfu < 1:
        raise DataError("the run has measured no utilisation", file=file, remedy="Give another run.")
    if precision == "fp32" or not re.search(rf"\b{fleet.gpu}\b", str(gpu)):
        problem = f"the run computed in {precision} on {gpu or result.get('device')}, and the plan is for 16 bits on {fleet.gpu}"
        raise DataError(problem, file=file, remedy="Give a run in 16 bits on such a GPU, or leave out --measured.")
    return mfu


def estimates(
    recipe: Recipe, configs: list[Any], fleet: Fleet, vocab_size: int
) -> Iterator[tuple[Stage, dict[str, object]]]:
    """Yield what each stage needs whose verb has an estimate, or why there is none.

    Args:
        recipe: Read for the fleet.
        configs: Of its stages, as `check` returns them.
        fleet: What to plan for.
        vocab_size: Pieces of the vocabulary, if no stage learns it.
    """
    stands_in = [need for need in recipe.needs if need.like and not need.path]
    vocab_sizes = [need.like["vocab_size"] for need in stands_in if "vocab_size" in need.like]
    vocab_sizes += [
        s.args["vocab_size"] for s in recipe.stages if s.verb == "tokenizer train" and "vocab_size" in s.args
    ]
    makers: dict[Path, Any] = {Path(f"<{need.variable}>"): _like(need) for need in stands_in}
    before = Before(vocab_sizes[-1] if vocab_sizes else vocab_size, makers)
    for stage, config in zip(recipe.stages, configs, strict=True):
        estimate = VERBS[stage.verb].estimate
        if estimate is not None:
            try:
                rows = estimate(config, fleet, before)
            except UserError as error:  # of a model from outside that is elsewhere, say
                rows = {"no estimate": error}
            yield stage, rows
        makers |= dict.fromkeys(stage.outputs, config)
