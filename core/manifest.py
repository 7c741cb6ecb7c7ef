"""Read and write `manifest.json`: what made a folder, from what, and what is in it.

Every stage writes one beside its output; the next stage reads it and refuses what does not belong together. A folder whose
manifest says `running` was interrupted: the same command goes on with it, another configuration is refused.
"""

import hashlib
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import orjson

from biomlm.core.errors import DataError, MismatchError, UserError, printable
from biomlm.core.fields import decisive
from biomlm.core.files import MANIFEST, read_json, refuse_links, sha256, sweep, write_json
from biomlm.core.processes import lock

FORMAT = 1
NAME = MANIFEST
STOPPED, LOST = "stopped", "lost"


@dataclass
class Manifest:
    """The record of one stage.

    Args:
        stage: The verb that wrote it, such as `corpus build`.
        config: The resolved configuration.
        config_hash: SHA-256 of the part of the configuration that the output depends on.
        inputs: Name of each input → SHA-256 of a file, or the fingerprint of a folder's manifest.
        counts: The numbers of the stage's summary.
        outputs: Relative path → SHA-256.
        status: `running`, `done`, `stopped` by a signal with all saved, or `lost` when a process of the run was.
        resolved: What the machine decided where the configuration left it to it, such as the precision; a run that goes on keeps to it.
    """

    stage: str
    config: dict[str, Any]
    config_hash: str
    inputs: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    status: str = "running"
    format: int = FORMAT
    resolved: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: str | Path) -> None:
        """Write this manifest into `folder`, atomically."""
        write_json(Path(folder) / NAME, asdict(self))

    def finish(self, folder: str | Path, outputs: list[Path], counts: dict[str, Any]) -> None:
        """Hash the output files, mark the stage as done and write the manifest."""
        folder = Path(folder)
        self.outputs = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(outputs)}
        self.counts, self.status = counts, "done"
        self.write(folder)

    @property
    def fingerprint(self) -> str:
        """The hash that later stages store for this folder: equal exactly when configuration and output are equal."""
        return digest({"stage": self.stage, "config_hash": self.config_hash, "outputs": self.outputs})


def digest(value: object) -> str:
    """Compute the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)).hexdigest()


def config_hash(config: Any) -> str:
    """Hash the part of a configuration that the output depends on (`core.fields.decisive`)."""
    return digest(decisive(config))


def read_manifest(folder: str | Path, stage: str, *, finished: bool = True) -> Manifest:
    """Read the manifest of a folder that `stage` wrote.

    Args:
        folder: A stage's output folder.
        stage: The verb that must have written it; a few alternatives are joined by `|`.
        finished: Refuse a stage that was interrupted; without this the folder is one to write to.

    Raises:
        DataError: There is no folder, no manifest, one of another stage, or one that says `running`.
    """
    folder, made_by = Path(folder), stage.split("|")
    remedy = f"Give the folder that `biomlm {made_by[0]} --out` wrote." if finished else "Give another --out."
    if not folder.is_dir():
        raise DataError("there is no such folder", file=folder, remedy=remedy)
    raw = read_json(folder / NAME, remedy=remedy)
    known = {f.name for f in fields(Manifest)}
    if raw.get("format") != FORMAT or not {"stage", "config", "config_hash"} <= raw.keys() <= known:
        raise DataError(f"this manifest is not of format {FORMAT}", file=folder / NAME, remedy=remedy)
    manifest = Manifest(**raw)  # type: ignore[arg-type]
    if (wrong := _ill_typed(manifest)) is not None:
        raise DataError(f"this is no manifest: its `{wrong}` is of another kind", file=folder / NAME, remedy=remedy)
    try:
        orjson.dumps(raw)
    except TypeError:
        raise DataError("this manifest is nested too deep", file=folder / NAME, remedy=remedy) from None
    if manifest.stage not in made_by:
        raise DataError(f"this folder was written by `biomlm {manifest.stage}`", file=folder, remedy=remedy)
    if finished and manifest.status != "done":
        raise DataError(
            f"`biomlm {manifest.stage}` was interrupted here",
            file=folder,
            remedy="Run that command again: it goes on where it was.",
        )
    return manifest


def _ill_typed(manifest: Manifest) -> str | None:
    """Name a field that holds what no stage writes; None if there is none. An output lies in the folder."""
    for name in ("stage", "config_hash", "status"):
        if not isinstance(getattr(manifest, name), str):
            return name
    for name in ("config", "inputs", "counts", "outputs", "resolved"):
        if not isinstance(getattr(manifest, name), dict):
            return name
    for name in ("inputs", "outputs"):
        if not all(isinstance(value, str) for value in getattr(manifest, name).values()):
            return name
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in manifest.outputs):
        return "outputs"
    return None


@contextmanager
def counts_as_written(folder: str | Path, stage: str) -> Iterator[None]:
    """Take for granted what a manifest counts: where that fails, the folder is refused.

    Raises:
        DataError: A count is missing or of another kind.
    """
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError):
        remedy = f"Give the folder that `biomlm {stage} --out` wrote."
        raise DataError(
            "its counts are not what that command writes", file=Path(folder) / NAME, remedy=remedy
        ) from None


def begin(
    folder: str | Path,
    stage: str,
    config: Any,
    inputs: dict[str, str],
    *,
    override: bool = False,
    unrecorded: Collection[str] = (),
) -> Manifest:
    """Start or continue a stage in `folder`: its manifest, with status `done` if there is nothing left to do.

    The folder is locked (`processes.lock`) to the command's end, unless there is nothing left to do, and what killed writers left in it
    is removed.

    Args:
        folder: The output folder; made if need be.
        stage: The verb.
        config: The configuration, a dataclass.
        inputs: Name → hash of what the stage reads.
        override: Go on although the configuration or an input changed.
        unrecorded: Names of inputs that earlier versions did not write down: a folder without one is taken to be of today's.

    Raises:
        MismatchError: The folder holds the output of another configuration, of other inputs or of another stage, or another process
            is running in it, or what it holds is no longer what was written.
        UnsafeFileError: It holds a link.
    """
    folder = Path(folder)
    refuse_links(*(folder.iterdir() if folder.is_dir() else ()))
    manifest = Manifest(stage=stage, config=asdict(config), config_hash=config_hash(config), inputs=inputs)
    if (folder / NAME).exists():
        earlier = read_manifest(folder, stage, finished=False)
        manifest.config_hash = config_hash(_where_it_was(config, earlier))
        missing = {name: inputs[name] for name in unrecorded if name in inputs and name not in earlier.inputs}
        same = earlier.config_hash == manifest.config_hash and earlier.inputs | missing == inputs
        if same and missing:
            print(
                f"{folder}: made when {', '.join(missing)} was not written down; taken to be as it is now",
                file=sys.stderr,
            )
        wrong = changed(folder, earlier) if same and earlier.status == "done" else None
        if same and earlier.status == "done" and wrong is None:
            return earlier
        if wrong is not None:
            problem = "it is not what the finished stage wrote"
            if not override:
                again = ", or say --override to make it again" if hasattr(config, "override") else ""
                raise MismatchError(
                    problem, file=folder / wrong, remedy=f"Put it back, or remove the folder and run this again{again}."
                )
            print(f"{folder / wrong}: {problem}; --override makes it again", file=sys.stderr)
        elif same:
            lock.hold(folder)
            sweep(folder)
            earlier = read_manifest(folder, stage, finished=False)  # the process that held the lock may have finished
            earlier.inputs |= missing
            if earlier.status in (STOPPED, LOST):
                earlier.status = "running"
                earlier.write(folder)
            return earlier
        elif override:
            print(
                f"{folder}: --override goes on in spite of another {printable(_difference(earlier, manifest, config))}",
                file=sys.stderr,
            )
            manifest.resolved = earlier.resolved
        elif not _is_bare(folder):
            raise MismatchError(
                f"the folder was made with another {_difference(earlier, manifest, config)}",
                file=folder,
                remedy="Give another --out, remove the folder, or say --override to go on in it all the same.",
            )
    elif folder.exists() and any(path.name != lock.NAME for path in folder.iterdir()):
        raise MismatchError(
            "the output folder is not empty and has no manifest", file=folder, remedy="Give another --out."
        )
    folder.mkdir(parents=True, exist_ok=True)
    lock.hold(folder)
    sweep(folder)
    manifest.config_hash = config_hash(config)
    manifest.write(folder)
    return manifest


def _where_it_was(config: Any, earlier: Manifest) -> Any:
    """Return a configuration with the paths of an earlier one, where what they hold is compared by itself (`core.fields.reads`)."""
    paths = {f.name: earlier.config.get(f.name) for f in fields(config) if f.metadata.get("reads")}
    try:
        return replace(config, **{name: path for name, path in paths.items() if path and getattr(config, name)})
    except (TypeError, ValueError):  # a manifest that no stage wrote
        return config


def changed(folder: str | Path, record: Manifest) -> str | None:
    """Find the first output of a stage that is gone or is not what was written; None if all are as they were."""
    for name, digits in record.outputs.items():
        path = Path(folder) / name
        if not path.is_file() or sha256(path) != digits:
            return name
    return None


def _is_bare(folder: Path) -> bool:
    """Whether a stage ended before its first output, as on a mistyped input: its folder is free for any other configuration."""
    return all(path.is_dir() or path.name in (NAME, lock.NAME) for path in folder.rglob("*"))


def note_stop(status: str = STOPPED) -> None:
    """Mark the manifests of the folders that this process has locked: it ends before it is done, and the same command goes on.

    Args:
        status: `stopped` if it was asked to, and has saved its work; `lost` if a process of the run is gone.
    """
    for folder in lock.held():
        if (folder / NAME).exists() and read_json(folder / NAME).get("status") == "running":
            write_json(folder / NAME, read_json(folder / NAME) | {"status": status})


def flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries: `{"optim": {"lr": 1}}` → `{"optim.lr": 1}`."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            flat |= flatten(item, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(item) if isinstance(item, tuple) else item
    return flat


def _difference(old: Manifest, new: Manifest, config: Any, most: int = 3) -> str:
    """Name the options or inputs that differ, old value first; not those that came since and leave all as it was."""
    if old.config_hash != new.config_hash:
        a, b = flatten(old.config), flatten(new.config)
        known = a.keys() | flatten(decisive(config)).keys()
        paths = {f.name for f in fields(config) if f.metadata.get("reads")}  # the same content elsewhere is the same
        changed = [k for k in sorted(known) if a.get(k) != b.get(k) and k not in {"out", *paths}]
        shown = ", ".join(f"{k} ({a.get(k)!r} then, {b.get(k)!r} now)" for k in changed[:most])
        return f"configuration: {shown}" + (f" and {len(changed) - most} more" if len(changed) > most else "")
    changed = [k for k in sorted(old.inputs.keys() | new.inputs.keys()) if old.inputs.get(k) != new.inputs.get(k)]
    return "input: " + ", ".join(changed[:most])
