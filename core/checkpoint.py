"""Read and write the checkpoints of a run: safetensors and JSON in `checkpoints/step_N/`, never a pickle.

A checkpoint is written beside its place, flushed, hashed and renamed, so it is whole or absent. Reading verifies the hashes and
falls back to the one before, with a word, when the newest is damaged. A group of tensors is one file, or one for every rank that wrote
its own rows (`model-00002-of-00008.safetensors`); a reader gets the whole tensors either way.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from biomlm.core.errors import CheckpointError, kind
from biomlm.core.files import atomic_dir, read_json, sha256, write_json

FOLDER = "checkpoints"
STATE = "state.json"
PART = re.compile(r"(?P<group>.+?)(-\d{5}-of-\d{5})?\.safetensors")

Groups = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint holds.

    Args:
        step: Optimiser steps done.
        tensors: Group (`model`, `objective`, `optimizer`) → name → tensor.
        state: Everything else that a run needs to go on, as JSON.
    """

    step: int
    tensors: Groups
    state: Mapping[str, Any]


def steps(run: str | Path) -> list[int]:
    """List the steps at which a run folder has checkpoints, ascending."""
    names = (p.name.removeprefix("step_") for p in (Path(run) / FOLDER).glob("step_*"))
    return sorted(int(name) for name in names if name.isdigit())


def path_of(run: str | Path, step: int) -> Path:
    """Return the folder of one checkpoint."""
    return Path(run) / FOLDER / f"step_{step}"


class Rows(Mapping[str, Tensor]):
    """The tensors of one or more safetensors files; one whose rows lie in several is concatenated when it is asked for.

    Args:
        files: By rank.
    """

    def __init__(self, files: list[Path]):
        self.files = [safe_open(file, "pt") for file in files]
        self.places: dict[str, list[int]] = {}
        for number, file in enumerate(self.files):
            for name in file.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118 it is no dictionary
                self.places.setdefault(name, []).append(number)

    def __getitem__(self, name: str) -> Tensor:
        parts: list[Tensor] = [self.files[n].get_tensor(name) for n in self.places[name]]  # type: ignore[no-untyped-call]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def save(run: str | Path, checkpoint: Checkpoint, keep: int, every: int = 0) -> Path:
    """Write a checkpoint, remove all but the last `keep` and those of every `every` steps, and return its folder."""
    path = path_of(run, checkpoint.step)
    with atomic_dir(path) as tmp:
        write_state(tmp, checkpoint, write_groups(tmp, checkpoint.tensors))
    prune(run, keep, every)
    return path


def write_groups(folder: Path, tensors: Groups, rank: int = 0, ranks: int = 1) -> dict[str, str]:
    """Write tensors, or a rank's rows of them, and return file → SHA-256."""
    hashes = {}
    for group, named in tensors.items():
        file = folder / (f"{group}-{rank + 1:05}-of-{ranks:05}.safetensors" if ranks > 1 else f"{group}.safetensors")
        save_tensors(file, named)
        hashes[file.name] = sha256(file)
    return hashes


def write_state(folder: Path, checkpoint: Checkpoint, hashes: Mapping[str, str]) -> None:
    """Write the file without which a folder is no checkpoint, so it comes last."""
    write_json(folder / STATE, {"step": checkpoint.step, "sha256": hashes, **checkpoint.state})


def prune(run: str | Path, keep: int, every: int = 0) -> None:
    """Remove all checkpoints but the last `keep` and those of every `every` steps (0: none of them)."""
    for step in steps(run)[:-keep]:
        if not every or step % every:
            remove(run, step)


def remove(run: str | Path, step: int) -> None:
    """Remove a checkpoint, such that a process killed in the middle of it leaves nothing that looks like one."""
    path = path_of(run, step)
    gone = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.rename(gone)
    shutil.rmtree(gone)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file; a full disk is an `OSError` here as everywhere, which safetensors' own error is not."""
    path.touch()
    mode = path.stat().st_mode  # as the umask has it; safetensors lets nobody but the owner read what it writes
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata)
        path.chmod(mode)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def load(path: str | Path, *, verify: bool = True) -> Checkpoint:
    """Read one checkpoint; its tensors are read when they are asked for.

    Args:
        path: Its folder.
        verify: Compare the files with their hashes; other ranks may rely on the first having done it.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    path = Path(path)
    state = read_json(path / STATE, remedy="Give a checkpoint folder that `biomlm pretrain` wrote.")
    hashes = state.pop("sha256", None)
    step = state.pop("step", None)
    if not isinstance(hashes, dict) or not isinstance(step, int):
        raise CheckpointError("state.json lacks its step or its hashes", file=path, remedy="Use an earlier checkpoint.")
    files: dict[str, list[Path]] = {}
    there = {file.name for file in path.iterdir() if file.is_file()}
    for name, digest in sorted(hashes.items()):
        file = path / Path(name).name
        if file.name not in there or (verify and sha256(file) != digest):
            raise CheckpointError(
                "a file is missing or its hash differs", file=file, remedy="Use an earlier checkpoint."
            )
        part = PART.fullmatch(file.name)
        files.setdefault(part["group"] if part else file.stem, []).append(file)
    try:
        return Checkpoint(step, {group: Rows(parts) for group, parts in files.items()}, state)
    except SafetensorError as error:
        raise CheckpointError(
            f"not a safetensors file ({kind(error)})", file=path, remedy="Use an earlier one."
        ) from None


def load_latest(run: str | Path) -> Checkpoint | None:
    """Read the newest whole checkpoint of a run; None if it has none at all (see `latest_whole` for the error)."""
    step = latest_whole(run)
    return None if step is None else load(path_of(run, step), verify=False)


def latest_whole(run: str | Path, most: int | None = None) -> int | None:
    """Find the step of a run's newest whole checkpoint; None if it has no checkpoint at all.

    Args:
        run: The run folder.
        most: The latest step that is wanted.

    Raises:
        CheckpointError: There are checkpoints and every one is damaged.
    """
    candidates = [step for step in steps(run) if most is None or step <= most]
    for step in reversed(candidates):
        try:
            load(path_of(run, step))
        except ValueError as error:
            print(f"checkpoint {path_of(run, step)} is damaged and is passed over: {error}", file=sys.stderr)
        else:
            return step
    if candidates:
        raise CheckpointError(
            "every checkpoint is damaged",
            file=Path(run) / FOLDER,
            remedy="Remove the folder to start this run again from step 0.",
        )
    return None


def latest_usable(run: str | Path, most: int | None = None) -> int | None:
    """Find a run's newest checkpoint that is whole and holds finite numbers only: its step, or None if the run has none at all.

    Args:
        run: The run folder.
        most: The latest step that is wanted.

    Raises:
        CheckpointError: There are checkpoints, and none of them can be gone on from.
    """
    step = newest = latest_whole(run, most)
    while step is not None and not is_finite(load(path_of(run, step), verify=False)):
        print(f"checkpoint {path_of(run, step)} holds numbers that are not finite and is passed over", file=sys.stderr)
        step = latest_whole(run, step - 1)
    if step is None and newest is not None and most is None:
        raise CheckpointError(
            "no checkpoint holds finite numbers only: the run diverged",
            file=Path(run) / FOLDER,
            remedy="Lower --optim.lr and remove the folder to start this run again from step 0.",
        )
    return step


def is_finite(checkpoint: Checkpoint) -> bool:
    """Whether all numbers of a checkpoint are finite; a sum is not if one of its numbers is not."""
    sums = [
        tensor.detach().sum(dtype=torch.float32) for named in checkpoint.tensors.values() for tensor in named.values()
    ]
    return not sums or bool(torch.stack([value.to(sums[0].device) for value in sums]).isfinite().all())
