"""Checkpoints of a run: safetensors and JSON in `checkpoints/step_N/`, never a pickle.

A checkpoint is written beside its place, flushed, hashed and renamed, so it is whole or absent. Reading verifies the hashes and
falls back to the one before, with a word, when the newest is damaged.
"""

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from biolm.core.errors import CheckpointError
from biolm.core.files import atomic_dir, read_json, sha256, write_json

FOLDER = "checkpoints"


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint holds.

    Args:
        step: Optimiser steps done.
        tensors: Group (`model`, `objective`, `optimizer`) → name → tensor.
        state: Everything else that a run needs to go on, as JSON.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def steps(run: str | Path) -> list[int]:
    """Steps at which a run folder has checkpoints, ascending."""
    found = (p.name.removeprefix("step_") for p in (Path(run) / FOLDER).glob("step_*"))
    return sorted(int(name) for name in found if name.isdigit())


def path_of(run: str | Path, step: int) -> Path:
    """The folder of one checkpoint."""
    return Path(run) / FOLDER / f"step_{step}"


def save(run: str | Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint and remove all but the last `keep`; its folder."""
    path = path_of(run, checkpoint.step)
    with atomic_dir(path) as tmp:
        hashes = {}
        for group, tensors in checkpoint.tensors.items():
            file = tmp / f"{group}.safetensors"
            save_tensors(file, tensors)
            hashes[file.name] = sha256(file)
        write_json(tmp / "state.json", {"step": checkpoint.step, "sha256": hashes, **checkpoint.state})
    for step in steps(run)[:-keep]:
        shutil.rmtree(path_of(run, step))
    return path


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file; a full disk is an `OSError` here as everywhere, which safetensors' own error is not."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def load(path: str | Path) -> Checkpoint:
    """Read one checkpoint and verify its hashes.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    path = Path(path)
    state = read_json(path / "state.json", remedy="Give a checkpoint folder that `biolm pretrain` wrote.")
    tensors = {}
    hashes = state.pop("sha256", None)
    step = state.pop("step", None)
    if not isinstance(hashes, dict) or not isinstance(step, int):
        raise CheckpointError("state.json lacks its step or its hashes", file=path, remedy="Use an earlier checkpoint.")
    for name, digest in hashes.items():
        file = path / Path(name).name
        if not file.is_file() or sha256(file) != digest:
            raise CheckpointError(
                "a file is missing or its hash differs", file=file, remedy="Use an earlier checkpoint."
            )
        try:
            tensors[file.stem] = load_file(file)
        except SafetensorError as error:
            raise CheckpointError(
                f"not a safetensors file ({error})", file=file, remedy="Use an earlier one."
            ) from None
    return Checkpoint(step=step, tensors=tensors, state=state)


def load_latest(run: str | Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run, or None if it has none at all.

    Raises:
        CheckpointError: There are checkpoints and every one is damaged.
    """
    found = steps(run)
    for step in reversed(found):
        try:
            return load(path_of(run, step))
        except ValueError as error:
            print(f"checkpoint {path_of(run, step)} is damaged and is passed over: {error}", file=sys.stderr)
    if found:
        raise CheckpointError(
            "every checkpoint is damaged",
            file=Path(run) / FOLDER,
            remedy="Remove the folder to start this run again from step 0.",
        )
    return None
