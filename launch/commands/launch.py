"""`biomlm launch RECIPE`: run the stages of a recipe, one command after the other; the same command again goes on where it was."""

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from biomlm.core.errors import ConfigError, TemporaryError
from biomlm.core.fields import Applies, only, runtime
from biomlm.core.fleet import find
from biomlm.core.manifest import NAME as MANIFEST
from biomlm.core.progress import clock
from biomlm.core.summary import summary
from biomlm.launch.backends import hosts, slurm
from biomlm.launch.backends.local import START, run_stage, shown, stop_on_sigterm
from biomlm.launch.backends.slurm import SlurmConfig
from biomlm.launch.commands import plan
from biomlm.launch.recipe import TRAINING, Recipe, Stage, read
from biomlm.launch.reporting.run_folders import collect, summary_rows
from biomlm.launch.state import Record, State, is_done, locked, open_state, stage_key, was_stopped

MISTAKE = 2  # exit code of a stage that has just said what the user should mend


@dataclass(frozen=True)
class LaunchConfig:
    """Run a recipe.

    Args:
        recipe: A shipped recipe's name (`demo`), or a YAML file; docs/recipes.md tells how to write one.
        out: The folder of all that comes out; logs are in its `logs/`.
        on: Where to run: `local` is this machine, `hosts` the machines of a host file, `slurm` a batch system (docs/scaling.md).
        scale: `smoke` runs the recipe's small version, to see that everything works.
        var: `NAME=VALUE` for variables that the recipe declares.
        dry_run: Check the recipe and print its commands, but run nothing.
        override: Let stages whose settings changed go on in the folders that they made with the old ones.
        fleet: GPUs whose options training stages are given, such as `v100-32gb`; `biomlm launch plan --fleet` shows what they need.
        processes: Processes of a training stage on this machine, with a GPU each; on `hosts` the host file says how many.
        hostfile: For `hosts`: lines such as `gpu01 slots=8`, as DeepSpeed's; ssh must reach each without a password.
        slurm: For `slurm`: what batch jobs ask for.
        record: Note one stage as done and run nothing: what a batch job says at its end.
        code: The exit code that this stage ended with; this command then ends with 75 if the stage is to go on later.
    """

    recipe: str
    out: str = field(metadata={"runtime": True})
    on: Literal["local", "hosts", "slurm"] = field(default="local", metadata={"runtime": True})
    scale: Literal["full", "smoke"] = "full"
    var: list[str] = field(default_factory=list)
    dry_run: bool = runtime(False)
    override: bool = only(False, lambda c: c.on != "slurm", "--on local or hosts", runtime=True)
    fleet: str = ""
    processes: int = only(1, lambda c: c.on == "local", "--on local", runtime=True)
    hostfile: str = runtime("")
    slurm: SlurmConfig = field(
        default_factory=SlurmConfig,
        metadata={"runtime": True, "applies": {"*": Applies(lambda c: c.on == "slurm", "--on slurm")}},
    )
    record: str = runtime("")
    code: int = only(0, lambda c: bool(c.record), "--record", runtime=True)

    def __post_init__(self) -> None:
        if (self.on == "hosts") != bool(self.hostfile):
            raise ConfigError("--on hosts and --hostfile belong together", remedy="Give both or neither.")
        if self.processes < 1:
            raise ConfigError("processes must be 1 at least", remedy="Give one for each GPU.")


def run(config: LaunchConfig) -> None:
    """Run what is left of a recipe, then print what came out.

    Raises:
        UserError: The recipe, its inputs or the output folder are not right.
        SystemExit: A stage failed; with its exit code.
    """
    recipe = read(config.recipe, config.out, config.scale, config.var, find(config.fleet) if config.fleet else None)
    out = recipe.out
    if config.record:
        _mark_done(recipe, config)
        return
    plan.check_inputs(recipe)
    if config.on == "slurm":
        slurm.require_use(recipe, config.slurm)
    if config.dry_run:
        plan.check(recipe)
        for stage in recipe.stages:
            print(
                slurm.script(stage, recipe, config.slurm, _launch_words(config))
                if config.on == "slurm"
                else shown(stage.words)
            )
        return
    with locked(out):
        state = open_state(out, recipe, config.scale)
        state.write(out)  # a launch that is killed in its first stage leaves a folder that it can go on in
        if any(not record.key for record in state.stages):
            _say(f"checking the options of {len(recipe.stages)} stages")
            _check_in_subprocess(config)
        stop_on_sigterm()
        if config.on == "slurm":
            _submit(recipe, state, config)
            return
        _run_stages(recipe, state, out, config)
    summary(f"launch {recipe.name} → {out}", summary_rows(collect([out])))


def _launch_words(config: LaunchConfig) -> list[str]:
    """Give the command line behind `biomlm` that starts this launch."""
    words = ["launch", config.recipe, "--out", config.out, "--scale", config.scale]
    words += ["--var", *config.var] if config.var else []
    return [*words, "--fleet", config.fleet] if config.fleet else words


def _submit(recipe: Recipe, state: State, config: LaunchConfig) -> None:
    """Submit all stages that are not done to SLURM."""
    remaining = [s for s, r in zip(recipe.stages, state.stages, strict=True) if not is_done(s, r)]
    jobs = slurm.submit(recipe, remaining, config.slurm, _launch_words(config))
    summary(f"launch {recipe.name} → {recipe.out}", {f"job of {name}": job for name, job in jobs.items()})
    if jobs:
        _say(f"`squeue` shows them, {recipe.out / 'logs'} what they say; the same command again submits what is left.")


def _mark_done(recipe: Recipe, config: LaunchConfig) -> None:
    """Record a stage as done, waiting for other jobs that do so; if it failed, exit with its code, or with 75 if it was only stopped."""
    if config.code:
        stage = next((stage for stage in recipe.stages if stage.name == config.record), None)
        stopped = stage is not None and was_stopped(stage, config.code)
        raise SystemExit(TemporaryError.exit_code if stopped else config.code)
    with locked(recipe.out, wait=True):
        state = open_state(recipe.out, recipe, config.scale)
        for stage, record in zip(recipe.stages, state.stages, strict=True):
            if stage.name == config.record:
                record.key = stage_key(stage)
        state.write(recipe.out)


def _check_in_subprocess(config: LaunchConfig) -> None:
    """Check all options in a process of its own, whose imports of every verb's module this one need not hold for hours."""
    words = ["launch", "plan", *_launch_words(config)[1:]]
    code = subprocess.run([sys.executable, "-c", START, *words], stdout=subprocess.DEVNULL, check=False).returncode
    if code:
        raise SystemExit(code)


def _run_stages(recipe: Recipe, state: State, out: Path, config: LaunchConfig) -> None:
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
        code = _run_one(stage, record, state, out, config)
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


def _run_one(stage: Stage, record: Record, state: State, out: Path, config: LaunchConfig) -> int:
    """Run one stage, record its time however it ends, and return its exit code."""
    changed = config.override and any((path / MANIFEST).exists() for path in stage.outputs)
    words = [*stage.words, "--override"] if changed and plan.takes_override(stage) else stage.words
    earlier_seconds = 0.0 if record.key else record.seconds
    key, stage_start, code = stage_key(stage), time.monotonic(), 1
    try:
        code = _start(stage, words, out / "logs" / f"{stage.name}.log", config)
    finally:
        record.key = "" if code else key
        record.seconds = round(earlier_seconds + time.monotonic() - stage_start, 1)
        state.write(out)
    return code


def _start(stage: Stage, words: list[str], log: Path, config: LaunchConfig) -> int:
    """Run a stage's command on this machine or the hosts, and return its exit code."""
    if stage.verb in TRAINING and config.on == "hosts":
        return hosts.run_stage(words, log, hosts.read(Path(config.hostfile)))
    if stage.verb in TRAINING and config.processes > 1:
        return run_stage(words, log, hosts.torchrun(words, config.processes))
    return run_stage(words, log)


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
