"""DeepSpeed's ZeRO folders, stages 1 to 3: the float32 master weights, assembled from every rank's part without DeepSpeed.

A folder holds `latest` (the name of a tag) and `TAG/*_model_states.pt` and `TAG/*_optim_states.pt`. The master weights lie flat in the
optimiser's states: in stages 1 and 2 each rank has a slice of every group, in stage 3 a slice of every parameter. The layout is that of
`deepspeed/utils/zero_to_fp32.py`. The shape stands in `config.json` or `encoder.json` in the folder or above it.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biomlm.convert.formats import hf, hf_weights, native
from biomlm.convert.formats.base import Folder, Format
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.safe_load import torch_file
from biomlm.convert.safe_load.unpickle import entries
from biomlm.core.errors import CheckpointError
from biomlm.core.files import read_json
from biomlm.model.config import NAME as ENCODER

LATEST = "latest"
MODEL, OPTIMIZER = "*model_states.pt", "*optim_states.pt"
LEVELS = 3  # the tag's folder, the checkpoint's, the run's


def detect(path: Path) -> bool:
    """Return whether this is a ZeRO folder, or one tag inside it, without weights put together already."""
    return path.is_dir() and not hf_weights.has_weights(path) and any(_tag(path).glob(MODEL))


def _tag(path: Path) -> Path:
    latest = path / LATEST
    name = latest.read_text(encoding="utf-8", errors="replace").strip() if latest.is_file() else ""
    return path / Path(name).name


def read(path: Path) -> SourceCheckpoint:
    """Assemble a model from its ranks' files.

    Raises:
        UnsafeFileError: A file wants to run code.
        CheckpointError: A rank is missing, a file is damaged, or the model is of no known architecture.
    """
    tag = _tag(path)
    tensors = master_weights(tag)
    file = sorted(tag.glob(OPTIMIZER), key=_rank)[0]
    for folder in [tag, *tag.resolve().parents[: LEVELS - 1]]:
        if (folder / hf.CONFIG).is_file():
            return hf.from_tensors(folder, read_json(folder / hf.CONFIG), tensors, file)
        if native.detect(folder):
            return native.from_tensors(folder, tensors, file)
    raise CheckpointError(
        f"no {hf.CONFIG} or {ENCODER} tells the model's shape", file=path, remedy="Put it beside the checkpoint."
    )


def master_weights(tag: Path) -> dict[str, Tensor]:
    """Assemble every parameter in float32, and the buffers, from one tag's folder."""
    state = torch_file.load(sorted(tag.glob(MODEL))[0])
    ranks = [_optimizer(file) for file in sorted(tag.glob(OPTIMIZER), key=_rank)]
    stage = entries(ranks[0]).get("zero_stage") if ranks else None
    if not isinstance(state, dict) or stage not in (1, 2, 3) or state.get("frozen_param_shapes"):
        raise _refused(tag, "this holds no ZeRO stage 1, 2 or 3 of a fully trained model")
    if state.get("dp_world_size") != len(ranks):
        raise _refused(tag, f"{len(ranks)} of {state.get('dp_world_size')} ranks' states are here")
    try:
        groups: list[dict[str, tuple[int, ...]]] = state["param_shapes"]
        pieces = _whole_groups(ranks, groups) if stage < 3 else _partitioned(ranks, groups)
        tensors = dict(pieces)
        tensors |= {name: state["module"][name] for name in state["buffer_names"]}
        tensors |= {name: tensors[source] for name, source in state["shared_params"].items()}
    except (KeyError, TypeError, IndexError, ValueError, RuntimeError, AttributeError) as error:
        raise _refused(tag, f"the ranks' parts do not fit together ({type(error).__name__})") from None
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def _rank(file: Path) -> int:
    match = re.search(r"zero_pp_rank_(\d+)_", file.name)
    return int(match[1]) if match else 0


def _optimizer(file: Path) -> Mapping[str, Any]:
    state = torch_file.load(file)
    inner = state.get("optimizer_state_dict") if isinstance(state, dict) else None
    if not isinstance(inner, dict):
        raise _refused(file, "this holds no optimiser's state")
    return inner


def _whole_groups(
    ranks: list[Mapping[str, Any]], groups: list[dict[str, tuple[int, ...]]]
) -> Iterator[tuple[str, Tensor]]:
    """Join stages 1 and 2: the ranks' slices of a group, end to end, are its parameters end to end."""
    for number, shapes in enumerate(groups):
        flat = torch.cat([rank["single_partition_of_fp32_groups"][number] for rank in ranks])
        start = 0
        for name, shape in shapes.items():
            size = math.prod(shape)
            yield name, flat[start : start + size].view(shape)
            start += size


def _partitioned(
    ranks: list[Mapping[str, Any]], groups: list[dict[str, tuple[int, ...]]]
) -> Iterator[tuple[str, Tensor]]:
    """Join stage 3: every parameter is cut into as many equal slices as there are ranks, the last one padded."""
    flats = [torch.cat(list(rank["fp32_flat_groups"])) for rank in ranks]
    start = 0
    for shapes in groups:
        for name, shape in shapes.items():
            size = math.prod(shape)
            share = math.ceil(size / len(ranks))
            yield name, torch.cat([flat[start : start + share] for flat in flats])[:size].view(shape)
            start += share


def _refused(file: Path, problem: str) -> CheckpointError:
    return CheckpointError(problem, file=file, remedy="Copy the whole folder that DeepSpeed's save_checkpoint wrote.")


FORMAT = Format(Folder(detect, read))
