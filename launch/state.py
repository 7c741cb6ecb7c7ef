"""`OUT/launch.json`: which stages of a recipe are done, what they were made from, and how long they took.

A stage that is run again although nothing changed finds that out by itself (`core.manifest`), but only after some seconds of
imports. So the launcher stores a key for every finished stage, a hash of its command and of the contents of the paths that it
reads: while the key is the same and the outputs are there, the stage is not even started.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from biomlm.core import manifest
from biomlm.core.errors import DataError, MismatchError, TemporaryError
from biomlm.core.files import read_json, refuse_links, sha256, write_json
from biomlm.core.processes import lock
from biomlm.launch.recipe import Recipe, Stage, strings

NAME = "launch.json"
KILLED = 128  # a shell's exit codes above it are of processes that a signal ended
LOSSES = 3  # how often a stage may lose a process at the same step


@dataclass
class Record:
    """The state of one stage.

    Args:
        name: The stage.
        verb: Its verb.
        reads: The stages that it reads from.
        outputs: Its outputs, relative to the launch's folder.
        key: `stage_key` when it was finished; empty before.
        seconds: Wall time of all attempts.
        files: `files_key` when it was finished; empty in launches of earlier versions.
        restarts: How often a batch job of it was put back into the queue.
        losses: How often it has lost a process since its last new checkpoint.
        step: That checkpoint's.
    """

    name: str
    verb: str
    reads: list[str]
    outputs: list[str]
    key: str = ""
    seconds: float = 0.0
    files: str = ""
    restarts: int = 0
    losses: int = 0
    step: int = 0


@dataclass
class State:
    """The state of a launch's folder between two commands.

    Args:
        recipe: The recipe's name.
        scale: `full` or `smoke`.
        description: The recipe's description of itself.
        stages: One record for every stage, in the recipe's order.
    """

    recipe: str
    scale: str
    description: str = ""
    stages: list[Record] = field(default_factory=list)

    def write(self, out: Path) -> None:
        """Write `OUT/launch.json`, atomically."""
        write_json(out / NAME, asdict(self))


def read_state(out: Path) -> State:
    """Read `OUT/launch.json`.

    Raises:
        DataError: It is missing, or not what `biomlm launch` writes.
    """
    remedy = "Remove the file: stages that are finished will find that they are."
    raw: dict[str, Any] = read_json(out / NAME, remedy=remedy)
    try:
        records = [Record(**record) for record in raw["stages"]]
        state = State(raw["recipe"], raw["scale"], raw["description"], records)
        words = [(r.name, r.verb, r.key, *r.reads, *r.outputs) for r in records]
        if not all(isinstance(w, str) for w in (state.recipe, state.scale, state.description, *chain(*words))):
            raise TypeError
        sum(record.seconds for record in records)
    except (KeyError, TypeError):
        raise DataError("this is not what `biomlm launch` writes", file=out / NAME, remedy=remedy) from None
    return state


def open_state(out: Path, recipe: Recipe, scale: str) -> State:
    """Read the state of an earlier launch in `out`, in the recipe's order, or begin a new one.

    Raises:
        MismatchError: The folder is of another recipe or scale, or holds something that no launch wrote.
    """
    earlier: dict[str, Record] = {}
    if (out / NAME).exists():
        state = read_state(out)
        if (state.recipe, state.scale) != (recipe.name, scale):
            problem = f"this folder belongs to recipe {state.recipe} at {state.scale} scale"
            raise MismatchError(problem, file=out, remedy="Give another --out.")
        earlier = {record.name: record for record in state.stages}
    elif any(path.name != lock.NAME for path in out.iterdir()):
        raise MismatchError(
            "the output folder is not empty and no launch wrote it", file=out, remedy="Give another --out."
        )
    records = []
    for stage in recipe.stages:
        outputs = [path.relative_to(recipe.out).as_posix() for path in stage.outputs]
        record = earlier.get(stage.name, Record(stage.name, stage.verb, [], []))
        record.verb, record.reads, record.outputs = stage.verb, list(stage.reads), outputs
        records.append(record)
    return State(recipe.name, scale, recipe.description, records)


@contextmanager
def locked(out: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock the folder: two launches in one would write the same files.

    Args:
        out: The folder.
        wait: Wait for another launch instead of giving up.

    Raises:
        MismatchError: Another launch has locked it, or it is a file.
        UnsafeFileError: A link stands where the launch writes.
    """
    if out.exists() and not out.is_dir():
        raise MismatchError("this is a file", file=out, remedy="Give a folder to --out.")
    out.mkdir(parents=True, exist_ok=True)
    refuse_links(out / "logs", out / "slurm")
    lock.hold(out, wait=wait)
    try:
        yield
    finally:
        lock.release(out)


def stage_key(stage: Stage) -> str:
    """Hash a stage's command, the contents of the paths that it reads, and what is expected of it."""
    outputs = {str(path) for path in stage.outputs}
    read = {word: _contents(word) for word in strings(stage.args) if word not in outputs}
    expect = {"expect": stage.expect.plain} if stage.expect else {}
    return manifest.digest({"words": stage.words, "read": read, **expect})


def is_done(stage: Stage, record: Record) -> bool:
    """Whether a stage's key still holds and its outputs are there, as they were."""
    there = record.key == stage_key(stage) and all(_is_output_there(path) for path in stage.outputs)
    return there and record.files in ("", files_key(stage))


def mark_done(stage: Stage, record: Record, key: str) -> None:
    """Record a stage as finished that was run when its key was this one."""
    record.key, record.files = key, files_key(stage)


def files_key(stage: Stage) -> str:
    """Hash sizes and times of the files that a stage's manifests list; a stage with others is started, and says what is wrong with them."""
    files: dict[str, list[int] | None] = {}
    for folder in (path for path in stage.outputs if (path / manifest.NAME).exists()):
        listed: Any = read_json(folder / manifest.NAME).get("outputs")
        for file in (folder / name for name in (listed if isinstance(listed, dict) else {})):
            files[str(file)] = _stat(file) if file.is_file() else None
    return manifest.digest(files)


def _is_output_there(path: Path) -> bool:
    if (path / manifest.NAME).exists():
        return read_json(path / manifest.NAME).get("status") == "done"
    return path.exists()


def goes_on(stage: Stage, record: Record, code: int) -> bool:
    """Decide whether a stage that ended with another code than 0 is to be run again, and count that.

    Its folders decide, not the code, which of several ranks is the largest. A stage that was asked to stop goes on, and so does one that
    lost a process, unless that has happened `LOSSES` times without a later checkpoint: what ends it then is no accident.

    Args:
        stage: What ended.
        record: Its record, which is changed.
        code: As a shell has it.
    """
    folders = [path for path in stage.outputs if (path / manifest.NAME).exists()]
    statuses = [read_json(path / manifest.NAME).get("status") for path in folders]
    if manifest.STOPPED not in statuses:
        if code != TemporaryError.exit_code and code < KILLED:
            return False
        step = max((_last_step(path) for path in stage.outputs), default=0)
        record.losses = 1 if step > record.step else record.losses + 1
        record.step = step
        if record.losses > LOSSES:
            return False
    record.restarts += 1
    return True


def _last_step(run: Path) -> int:
    """Return the step of a run's newest checkpoint, 0 for none; `core.checkpoint` would import torch."""
    names = [path.name.removeprefix("step_") for path in run.glob("checkpoints/step_*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def _contents(word: str) -> Any:
    """Describe the contents of a path or a glob: a manifest's hash, else sizes and times of files; None for any other string."""
    path = Path(word)
    try:
        if path.is_file():
            return _stat(path)
        if path.is_dir():
            if (path / manifest.NAME).exists():
                return sha256(path / manifest.NAME)
            return {
                file.relative_to(path).as_posix(): _stat(file) for file in sorted(path.rglob("*")) if file.is_file()
            }
    except OSError:  # a sentence is too long to be a path
        return None
    if not any(letter in word for letter in "*?["):
        return None
    matches = Path(path.anchor).glob(path.relative_to(path.anchor).as_posix())
    return {str(file): _stat(file) for file in sorted(matches) if file.is_file()} or None


def _stat(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]
