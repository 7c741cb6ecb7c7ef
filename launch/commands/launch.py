"""`biomlm launch RECIPE`: run the stages of a recipe, one command after the other; the same command again goes on where it was."""

import builtins
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from biomlm.core.errors import ConfigError, TemporaryError, printable
from biomlm.core.fields import only, runtime
from biomlm.core.fleet import find
from biomlm.core.manifest import NAME as MANIFEST
from biomlm.core.processes.children import biomlm_command
from biomlm.core.progress import clock
from biomlm.core.summary import summary
from biomlm.launch.backends.base import Batch, OneByOne, with_options
from biomlm.launch.backends.local import shown
from biomlm.launch.backends.registry import BACKENDS
from biomlm.launch.commands import plan
from biomlm.launch.expectations import check as expectations
from biomlm.launch.recipe import Recipe, Stage, read
from biomlm.launch.reporting.run_folders import collect, summary_rows
from biomlm.launch.resolve import SHIPPED, catalogue
from biomlm.launch.state import NAME as STATE
from biomlm.launch.state import Record, State, goes_on, is_done, locked, mark_done, open_state, read_state, stage_key

MISTAKE = 2  # exit code of a stage that has just said what the user should mend


def runs_stages(name: str) -> bool:
    """Whether a back end runs the stages itself, one after the other."""
    return isinstance(BACKENDS[name].starter, OneByOne)


@dataclass(frozen=True)
class LaunchOptions:
    """Run a recipe.

    Args:
        recipe: A shipped recipe's name (`demo`), or a YAML file; docs/recipes.md tells how to write one.
        out: The folder of all that comes out; logs are in its `logs/`. If empty, `runs/` and the recipe's name.
        list: Show the recipes that come with biomlm, and run nothing.
        on: Where to run: `local` is this machine, `hosts` the machines of a host file, `slurm` a batch system (docs/scaling.md).
        scale: `smoke` runs the recipe's small version, to see that everything works; `paper` is another word for `full`.
        var: `NAME=VALUE` for variables that the recipe declares.
        dry_run: Check the recipe and print its commands, but run nothing.
        override: Let stages whose settings changed go on in the folders that they made with the old ones.
        stop_timeout: Seconds that a stage has to save and end after a signal or Ctrl-C, before it is killed; 0 for as long as it takes.
        fleet: GPUs whose options training stages are given, such as `v100-32gb`; `biomlm launch plan --fleet` shows what they need.
        record: Note one stage as done and run nothing: what a batch job says at its end.
        code: The exit code that this stage ended with; this command then ends with 75 if the stage is to go on later.
        seconds: How long its job ran.
    """

    recipe: str = ""
    out: str = runtime("")
    list: bool = runtime(False)
    on: str = runtime("local")
    scale: Literal["full", "smoke", "paper"] = "full"
    var: builtins.list[str] = field(default_factory=builtins.list)
    dry_run: bool = runtime(False)
    override: bool = only(
        False, lambda c: runs_stages(c.on), f"--on {' or '.join(filter(runs_stages, BACKENDS))}", runtime=True
    )
    stop_timeout: float = only(
        0.0, lambda c: runs_stages(c.on), f"--on {' or '.join(filter(runs_stages, BACKENDS))}", runtime=True
    )
    fleet: str = ""
    record: str = runtime("")
    code: int = only(0, lambda c: bool(c.record), "--record", runtime=True)
    seconds: float = only(0.0, lambda c: bool(c.record), "--record", runtime=True)

    def __post_init__(self) -> None:
        if self.stop_timeout < 0:
            raise ConfigError("stop_timeout must not be negative", remedy="0 waits as long as it takes.")
        if self.scale == "paper":
            object.__setattr__(self, "scale", "full")


LaunchConfig: Any = with_options(LaunchOptions, tuple(BACKENDS.values()))


def run(config: LaunchOptions) -> None:
    """Run what is left of a recipe, then print what came out.

    Raises:
        UserError: The recipe, what it needs or the output folder are not right.
        SystemExit: A stage failed; with its exit code.
    """
    if bool(config.recipe) == config.list:
        raise ConfigError("launch takes a recipe, or --list alone", remedy="Start with: biomlm launch --list")
    if config.list:
        _print_catalogue()
        return
    recipe = read(config.recipe, config.out, config.scale, config.var, find(config.fleet) if config.fleet else None)
    if config.record:
        _note_end(recipe, config)
        return
    backend = BACKENDS[config.on]
    backend.check(recipe, config)
    if config.dry_run:
        plan.check(recipe)
        for stage in recipe.stages:
            batch = backend.starter if isinstance(backend.starter, Batch) else None
            print(batch.script(stage, recipe, config, _launch_words(recipe, config)) if batch else shown(stage.words))
        return
    plan.check_needs(recipe)
    with locked(recipe.out):
        if isinstance(backend.starter, Batch) and not (recipe.out / STATE).exists():
            _show_shell(recipe)
        earlier = read_state(recipe.out) if (recipe.out / STATE).exists() else None
        state = open_state(recipe.out, recipe, config.scale)
        if state != earlier:  # a launch that is killed in its first stage leaves a folder that it can go on in
            state.write(recipe.out)
        if any(not record.key for record in state.stages):
            _say(f"checking the options of {len(recipe.stages)} stages")
            _check_in_subprocess(recipe, config)
        if isinstance(backend.starter, Batch):
            _submit(recipe, state, config, backend.starter)
            return
        _run_stages(recipe, state, config, backend.starter)
    summary(f"launch {recipe.name} → {recipe.out}", summary_rows(collect([recipe.out])))


def _show_shell(recipe: Recipe) -> None:
    """Show what of a recipe that did not come with biomlm the shell of a batch job will read: all else are options of verbs."""
    lines = [f"  {stage.name}: {printable(line)}" for stage in recipe.stages for line in stage.slurm.get("setup", ())]
    if lines and SHIPPED not in recipe.file.resolve().parents:
        _say("\n".join([f"{recipe.file} brings shell lines, which run in the jobs of its stages:", *lines]))


def _print_catalogue() -> None:
    """Print the shipped recipes by system, each with the first sentence of its description."""
    systems = catalogue()
    width = max(len(name) for recipes in systems.values() for name in recipes)
    for system, recipes in systems.items():
        print(f"{system}\n" if system else "", end="")
        for name, description in recipes.items():
            print(f"  {name:{width}}  {description}")


def _launch_words(recipe: Recipe, config: LaunchOptions) -> list[str]:
    """Give the command line behind `biomlm` that starts this launch."""
    words = ["launch", config.recipe, "--out", config.out or str(recipe.out), "--scale", config.scale]
    words += ["--var", *config.var] if config.var else []
    return [*words, "--fleet", config.fleet] if config.fleet else words


def _submit(recipe: Recipe, state: State, config: LaunchOptions, batch: Batch) -> None:
    """Submit all stages that are not done."""
    remaining = [s for s, r in zip(recipe.stages, state.stages, strict=True) if not is_done(s, r)]
    jobs = batch.submit(recipe, remaining, config, _launch_words(recipe, config))
    summary(f"launch {recipe.name} → {recipe.out}", {f"job of {name}": job for name, job in jobs.items()})
    if jobs:
        _say(f"`squeue` shows them, {recipe.out / 'logs'} what they say; the same command again submits what is left.")


def _note_end(recipe: Recipe, config: LaunchOptions) -> None:
    """Note that a batch job of a stage has ended, waiting for other jobs that do so.

    Raises:
        SystemExit: The stage failed, with its exit code; or with 75 if the job is to go back into the queue.
    """
    with locked(recipe.out, wait=True):
        state, code = open_state(recipe.out, recipe, config.scale), config.code
        for stage, record in zip(recipe.stages, state.stages, strict=True):
            if stage.name == config.record:
                record.seconds = round(record.seconds + config.seconds, 1)
                if not code:
                    expectations.check(stage)
                    mark_done(stage, record, stage_key(stage))
                elif goes_on(stage, record, code):
                    code = TemporaryError.exit_code
        state.write(recipe.out)
    if code:
        raise SystemExit(code)


def _check_in_subprocess(recipe: Recipe, config: LaunchOptions) -> None:
    """Check all options in a process of its own, whose imports of every verb's module this one need not hold for hours."""
    words = ["launch", "plan", *_launch_words(recipe, config)[1:]]
    code = subprocess.run(biomlm_command(*words), stdout=subprocess.DEVNULL, check=False).returncode
    if code:
        raise SystemExit(code)


def _run_stages(recipe: Recipe, state: State, config: LaunchOptions, starter: OneByOne) -> None:
    out = recipe.out
    launch_start, number = time.monotonic(), len(recipe.stages)
    timings: list[tuple[float, float]] = []  # of every stage run now: minutes planned, seconds taken
    for i, (stage, record) in enumerate(zip(recipe.stages, state.stages, strict=True)):
        title = f"stage {i + 1} of {number} · {stage.name} ({stage.verb})"
        if is_done(stage, record):
            _say(f"{title} · already done")
            continue
        remaining = [s for s, r in zip(recipe.stages[i:], state.stages[i:], strict=True) if not is_done(s, r)]
        left = time_left(timings, sum(s.minutes for s in remaining)) if config.scale == "full" else None
        elapsed = clock(time.monotonic() - launch_start)
        _say(f"{title} · {elapsed} gone" + ("" if left is None else f" · about {clock(left)} left"))
        stage_start = time.monotonic()
        code = _run_one(stage, record, state, out, config, starter)
        timings.append((stage.minutes, time.monotonic() - stage_start))
        if code:
            log = out / "logs" / f"{stage.name}.log"
            remedy = "Mend that, then run" if code == MISTAKE else "Run"
            _say(
                f"biomlm launch: stage {stage.name} ended with exit code {code} (log: {log}).\n"
                f"{remedy} the same command again: it goes on where it was."
            )
            raise SystemExit(code)
    _say(f"all {number} stages done · {clock(time.monotonic() - launch_start)} gone")


def _run_one(stage: Stage, record: Record, state: State, out: Path, config: LaunchOptions, starter: OneByOne) -> int:
    """Run one stage, record its time however it ends, and return its exit code."""
    changed = config.override and any((path / MANIFEST).exists() for path in stage.outputs)
    words = [*stage.words, "--override"] if changed and plan.takes_override(stage) else stage.words
    earlier_seconds = 0.0 if record.key else record.seconds
    key, stage_start, is_right = stage_key(stage), time.monotonic(), False
    try:
        code = starter.run(stage, words, out / "logs" / f"{stage.name}.log", config)
        if not code:
            expectations.check(stage)
        is_right = not code
    finally:
        record.key = ""
        if is_right:
            mark_done(stage, record, key)
        record.seconds = round(earlier_seconds + time.monotonic() - stage_start, 1)
        state.write(out)
    return code


def time_left(timings: list[tuple[float, float]], minutes_left: float) -> float:
    """Estimate the seconds left: the minutes planned, scaled by the pace so far.

    The pace counts the minutes left as if they went as planned, so that one quick first stage does not promise a quick end.

    Args:
        timings: Of every stage that was run: minutes planned and seconds taken.
        minutes_left: Minutes planned for the others.
    """
    planned, taken = sum(minutes for minutes, _ in timings), sum(seconds for _, seconds in timings)
    pace = (taken + 60 * minutes_left) / (60 * (planned + minutes_left))
    return 60 * minutes_left * pace


def _say(line: str) -> None:
    bold = sys.stderr.isatty()
    print(f"\033[1m{line}\033[0m" if bold else line, file=sys.stderr, flush=True)
