"""`biomlm launch RECIPE --on slurm`: one batch job for every stage, each waiting for those that it reads from.

The scripts stay in `OUT/slurm/`, to be read, and changed, and submitted by hand. A training stage runs on all tasks of its nodes through
`srun`. Before the job's time is over, or when it is preempted, a stage saves what it has, its folder says `stopped`, and the job is put
back into the queue, and goes on where it was. The folder decides, not srun's exit code: of several ranks that is the largest, such as 143
of one that was ended while it waited for the others.
"""

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from biomlm.core.errors import ConfigError, MismatchError, TemporaryError
from biomlm.core.fields import only, require_positive
from biomlm.core.files import read_json, write_json, write_text
from biomlm.core.processes.children import biomlm_command
from biomlm.core.verbs import VERBS
from biomlm.launch.backends.base import Backend, Batch
from biomlm.launch.recipe import Recipe, Stage, strings
from biomlm.launch.resolve import KINDS

JOBS = "jobs.json"
FORMER_COMMAND = "-m biolm.core"
LINGER = 60  # seconds that the ranks of a stage have to end after the first has


@dataclass(frozen=True)
class SlurmConfig:
    """What batch jobs ask for; a stage of the recipe can have a `slurm:` of its own.

    Args:
        partition: Where to run; `sinfo` lists them. Empty for the default one.
        cpu_partition: Where the stages run that use no GPU; empty for `partition`.
        account: What to charge; empty for the default one.
        time: Limit of a job, as sbatch takes it.
        nodes: Nodes of a training stage.
        gpus: GPUs, and processes, of each of its nodes; 0 trains on processors.
        tasks: Processes of each node if `gpus` is 0.
        cpus: Cores of each process, and of the one process of other stages.
        memory: Of a node, as sbatch takes it; empty for the default.
        grace: Seconds before the time limit at which a stage is told to save.
        arrays: Run corpus stages as job arrays of this many tasks at a time; 0 in one job.
        prefix: What stands before each command, in words, such as `apptainer exec --nv biomlm.sif`; behind it the program is `biomlm`.
        setup: Shell lines before the command, such as `module load cuda`: the only option whose text the shell reads.
        extra: Further options of sbatch, such as `--qos=long`.
    """

    partition: str = ""
    cpu_partition: str = ""
    account: str = ""
    time: str = "24:00:00"
    nodes: int = 1
    gpus: int = 8
    tasks: int = only(1, lambda slurm: slurm.gpus == 0, "--slurm.gpus 0")
    cpus: int = 4
    memory: str = ""
    grace: int = 120
    arrays: int = 0
    prefix: str = ""
    setup: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_positive(self, "nodes", "tasks", "cpus", "grace", prefix="slurm.")
        for name in ("partition", "cpu_partition", "account", "time", "memory", "prefix", "extra"):
            if any(not word.isprintable() for word in strings(getattr(self, name))):
                raise ConfigError(f"slurm.{name} has a line end in it", remedy="A batch script has a line for each.")
        try:
            shlex.split(self.prefix)
        except ValueError:
            raise ConfigError("slurm.prefix has a quote that is not closed", remedy="Close it.") from None
        if self.arrays and self.prefix:
            raise ConfigError(
                "slurm.arrays and slurm.prefix exclude each other: behind a prefix there is no sbatch",
                remedy="Leave one of them out.",
            )

    def partition_of(self, stage: Stage) -> str:
        """The partition of a stage: the processors' for one that uses no GPU."""
        return (self.cpu_partition if VERBS[stage.verb].gpus == "none" else "") or self.partition

    def of(self, stage: Stage) -> "SlurmConfig":
        """The same with a stage's own wishes.

        Raises:
            ConfigError: The recipe names an option that there is not, or gives one a value of the wrong type.
        """
        known = [f.name for f in fields(SlurmConfig)]
        for name, value in stage.slurm.items():
            if name not in known:
                raise stage.refused(f"there is no `slurm.{name}`", f"There are {', '.join(sorted(known))}.")
            wanted = type(getattr(self, name))
            if type(value) is not wanted:
                raise stage.refused(
                    f"`slurm.{name}` is {value!r}, and must be {KINDS[wanted]}", f"Give {KINDS[wanted]}."
                )
        try:
            return replace(self, **stage.slurm)
        except ConfigError as error:
            raise stage.refused(error.problem, error.remedy) from None


@dataclass(frozen=True)
class SlurmOptions:
    """What batch jobs ask for.

    Args:
        slurm: For `slurm`: what batch jobs ask for.
    """

    slurm: SlurmConfig = field(default_factory=SlurmConfig)


def _check(recipe: Recipe, options: SlurmOptions) -> None:
    """Refuse wishes for stages that the recipe does not have.

    Raises:
        ConfigError: It has no corpus to build in arrays, or nothing that trains on several nodes or processes.
    """
    verbs = [VERBS[stage.verb] for stage in recipe.stages]
    trains = any(verb.gpus == "all" for verb in verbs)
    used = {
        "arrays": any(stage.verb == "corpus build" for stage in recipe.stages),
        "nodes": trains,
        "tasks": trains,
        "gpus": any(verb.gpus != "none" for verb in verbs),
        "cpu_partition": any(verb.gpus == "none" for verb in verbs),
    }
    for name, has_use in used.items():
        if getattr(options.slurm, name) != getattr(SlurmConfig, name) and not has_use:
            raise ConfigError(
                f"--slurm.{name} has no effect: the recipe has no stage that it is for",
                file=recipe.file,
                remedy="Leave it out.",
            )
    for stage in recipe.stages:
        options.slurm.of(stage)
    for name in (recipe.name, str(recipe.out.resolve()), str(Path.cwd())):
        if not name.isprintable():
            raise ConfigError("a name in a batch script holds a line end", file=name, remedy="Name it otherwise.")


def script(stage: Stage, recipe: Recipe, options: SlurmOptions, launch: Sequence[str]) -> str:
    """The batch script of one stage.

    Args:
        stage: What to run.
        recipe: Where it stands.
        options: What jobs ask for.
        launch: The words after `biomlm` that note a stage as done, without its name.
    """
    wants, out = options.slurm.of(stage), recipe.out.resolve()
    uses = VERBS[stage.verb].gpus
    trains = uses == "all"
    processes = (wants.gpus or wants.tasks) if trains else 1
    tasks = 1 if stage.starts_processes else processes
    asks = {
        "job-name": f"{recipe.name}-{stage.name}".replace("/", "-"),
        "output": f"{_plain(out)}/logs/{stage.name}.log",
        "open-mode": "append",
        "partition": wants.partition_of(stage),
        "account": wants.account,
        "time": wants.time,
        "nodes": wants.nodes if trains else 1,
        "ntasks-per-node": tasks,
        "cpus-per-task": wants.cpus * processes // tasks,
        "gpus-per-node": {"none": 0, "one": min(wants.gpus, 1), "all": wants.gpus}[uses],
        "mem": wants.memory,
        "signal": f"USR1@{wants.grace}",
    }
    several = trains and tasks * wants.nodes > 1
    ranks = f" --output={shlex.quote(f'{_plain(out)}/logs/{stage.name}-rank%t.log')}" if several else ""
    biomlm = shlex.join([*shlex.split(wants.prefix), "biomlm"] if wants.prefix else biomlm_command())
    lines = [
        "#!/bin/bash",
        f"# Stage {stage.name} of recipe {recipe.name}: written by `biomlm launch --on slurm`.",
        *(f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in asks.items() if value),
        "#SBATCH --requeue",
        *(f"#SBATCH {option}" for option in wants.extra),
        f"cd {shlex.quote(str(Path.cwd()))}",
        "export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK",
        *wants.setup,
        "",
        # Until Python has its handlers, signals wait; an `env` that cannot do that (before coreutils 8.31) is left out.
        "wait=$(env --block-signal=USR1,TERM true 2>/dev/null && echo env --block-signal=USR1,TERM)",
        # A rank that has stopped and saved must not have srun kill those that are still about to: they get a minute.
        f"srun --kill-on-bad-exit=0 --wait={LINGER}{ranks} $wait {biomlm} {shlex.join(_words(stage, wants))}",
        f"{biomlm} {shlex.join([*launch, '--record', stage.name])} --code $? --seconds $SECONDS",
        "code=$?",
        f"if [ $code -eq {TemporaryError.exit_code} ]; then  # stopped for time or by preemption, its work saved: back into the queue",
        "    scontrol requeue $SLURM_JOB_ID",
        "    sleep 60  # until it is taken out",
        "fi",
        "exit $code",
    ]
    return "\n".join(lines) + "\n"


def _plain(path: Path) -> str:
    """Write a path as SLURM takes it for the name of a file, in which % stands before a pattern."""
    return str(path).replace("%", "%%")


def _words(stage: Stage, config: SlurmConfig) -> list[str]:
    """The stage's command; a corpus stage may want its tasks as a job array."""
    if stage.verb != "corpus build" or not config.arrays:
        return stage.words
    array = ["--where.executor", "slurm", "--workers", str(config.arrays)]
    return [*stage.words, *array, "--where.partition", config.partition_of(stage)]


def submit(recipe: Recipe, to_do: Sequence[Stage], options: SlurmOptions, launch: Sequence[str]) -> dict[str, str]:
    """Write and submit the jobs of the stages that are not done; stage → job number.

    Raises:
        ConfigError: sbatch is missing or refuses.
        MismatchError: Jobs of an earlier call are still in the queue.
    """
    folder = recipe.out / "slurm"
    waiting = _in_queue(folder)
    if waiting and any(FORMER_COMMAND in script.read_text() for script in folder.glob("*.sbatch")):
        raise MismatchError(
            f"jobs {', '.join(waiting)} were queued when biomlm was called biolm, and would not find their program",
            file=recipe.out,
            remedy=f"`scancel {' '.join(waiting)}`, then run the same command again: it goes on where they were.",
        )
    if waiting:
        raise MismatchError(
            f"jobs of this launch are still in the queue: {', '.join(waiting)}",
            file=recipe.out,
            remedy=f"Wait for them, or `scancel {' '.join(waiting)}`, then run the same command again.",
        )
    (recipe.out / "logs").mkdir(parents=True, exist_ok=True)
    jobs: dict[str, str] = {}
    for stage in to_do:
        file = folder / f"{stage.name}.sbatch"
        write_text(file, script(stage, recipe, options, launch))
        after = [jobs[name] for name in stage.reads if name in jobs]
        jobs[stage.name] = _sbatch(file, after)
        write_json(folder / JOBS, jobs)
    return jobs


def _sbatch(file: Path, after: Sequence[str]) -> str:
    words = ["sbatch", "--parsable", "--kill-on-invalid-dep=yes"]
    words += [f"--dependency=afterok:{':'.join(after)}"] if after else []
    try:
        answer = subprocess.run([*words, str(file)], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise ConfigError("there is no sbatch here", remedy="Start it where SLURM is, or give --on local.") from None
    except subprocess.CalledProcessError as error:
        problem = error.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ConfigError(
            f"sbatch refuses it: {problem[0]}", file=file, remedy="Mend the --slurm options; `sinfo` may help."
        ) from None
    return answer.stdout.strip().partition(";")[0]


def _in_queue(folder: Path) -> list[str]:
    """Jobs of an earlier call that wait or run."""
    if not (folder / JOBS).exists():
        return []
    queued = []
    for job in read_json(folder / JOBS).values():
        answer = subprocess.run(["squeue", "-h", "-j", str(job)], capture_output=True, text=True, check=False)
        queued += [str(job)] * (answer.returncode == 0 and bool(answer.stdout.strip()))
    return queued


BACKEND = Backend("slurm", SlurmOptions, Batch(script, submit), _check)
