"""Run folders of our own: `encoder.json`, `tokenizer/` and `checkpoints/step_N/model.safetensors` (docs/design.md).

A converted model is such a folder too, with one checkpoint, `step_0`; what the model itself does not hold stands in its group `rest`. What
the objectives of a run learnt beside the model, such as a pooler and its classifier, is its group `objective`, and is carried along.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biomlm.convert.formats.base import Folder, Format, Target, copied_ids, copy_tokenizer
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.names.table import HEAD, common_dtype, shapes
from biomlm.core import checkpoint
from biomlm.core.errors import CheckpointError
from biomlm.core.files import read_json
from biomlm.core.manifest import NAME as MANIFEST
from biomlm.model.config import NAME as ENCODER
from biomlm.model.config import EncoderConfig
from biomlm.model.optim.optimizer import EMA

TOKENIZER = "tokenizer"
RESULT = "result.json"
REST = "rest"
TRAINED = ("pretrain", "distill")  # stages that leave such a folder
LOSS_ONLY = ("alignments.",)  # what only a loss needs, distillation's projections: of no use without its teacher
FACTS = "facts"


def detect(path: Path) -> bool:
    """Return whether this is a run folder, or one checkpoint inside it; GPT-2's BPE has an `encoder.json` too, with pieces in it."""
    file = _run(path) / ENCODER
    return file.is_file() and "hidden_size" in read_json(file)


def _run(path: Path) -> Path:
    """Find the run folder that `path` is, or is a checkpoint of."""
    return path.resolve().parent.parent if re.fullmatch(r"step_\d+", path.resolve().name) else path


def read(path: Path) -> SourceCheckpoint:
    """Read the newest whole checkpoint of a run folder, or the one checkpoint given.

    Raises:
        CheckpointError: There is none, it is damaged, it is not the last one of a finished run, or its tensors are not those of
            `encoder.json`.
    """
    run = _run(path)
    saved = checkpoint.load(path) if run != path else checkpoint.load_latest(run)
    if saved is None:
        raise CheckpointError("this run has no checkpoint yet", file=run, remedy="Run `biomlm pretrain` on it first.")
    last = _last_step(run) if run == path else None
    if last is not None and saved.step != last:
        raise CheckpointError(
            "the last checkpoint of this finished run is gone or damaged",
            file=checkpoint.path_of(run, last),
            remedy=f"Put it back, or name the one that is to be read: {checkpoint.path_of(run, saved.step)}.",
        )
    file = min(checkpoint.path_of(run, saved.step).glob("model*.safetensors"))  # of several ranks' rows, the first
    source = from_tensors(run, saved.tensors.get("model", {}), file)
    facts = {**source.facts, **saved.state.get(FACTS, {}), "step": saved.step, "dtype": source.facts["dtype"]}
    own = {name: t for name, t in saved.tensors.get("objective", {}).items() if not name.startswith(LOSS_ONLY)}
    source = replace(source, extra_tensors={**own, **saved.tensors.get(REST, {})}, facts=facts)
    optimizer = saved.tensors.get("optimizer", {})
    kept = [name for name in source.tensors if f"{EMA}.{name}" in optimizer]
    if not kept:
        return source
    return replace(source, averaged=lambda: _averaged(source, {name: optimizer[f"{EMA}.{name}"] for name in kept}))


def _averaged(source: SourceCheckpoint, mean: Mapping[str, Tensor]) -> SourceCheckpoint:
    return replace(source, tensors={**source.tensors, **mean})


def _last_step(run: Path) -> int | None:
    """Read the last step of a finished run of ours; None for any other folder."""
    if not (run / MANIFEST).is_file():
        return None
    record = read_json(run / MANIFEST)
    counts = record.get("counts")
    done = record.get("status") == "done" and record.get("stage") in TRAINED
    return counts.get("steps") if done and isinstance(counts, dict) else None


def from_tensors(run: Path, tensors: Mapping[str, Tensor], file: Path) -> SourceCheckpoint:
    """Check tensors against a run's `encoder.json`, and gather what the run records about itself.

    Raises:
        CheckpointError: They are not those of `encoder.json`.
    """
    config = EncoderConfig.load(run)
    has_head = any(name.startswith(HEAD) for name in tensors)
    expected = shapes(config, has_head)
    odd = [name for name in sorted(expected.keys() | tensors.keys()) if _shape(tensors, name) != expected.get(name)]
    if odd:
        raise CheckpointError(
            f"the tensor {odd[0]} has shape {_shape(tensors, odd[0])}, but {ENCODER} says {expected.get(odd[0])}",
            file=file,
            remedy=f"The checkpoint and {ENCODER} must be of one run.",
        )
    tokenizer = run / TOKENIZER
    facts = {**_facts(run), "dtype": common_dtype(tensors)}
    place = tokenizer if tokenizer.is_dir() else None
    return SourceCheckpoint("native", config, dict(tensors), file, {}, place, facts, has_head)


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def _facts(run: Path) -> dict[str, Any]:
    """Read how the run was made: the verb, its configuration, the last evaluation."""
    facts: dict[str, Any] = {}
    if (run / MANIFEST).is_file():
        manifest = read_json(run / MANIFEST)
        facts |= {"stage": manifest.get("stage"), "config": manifest.get("config"), "counts": manifest.get("counts")}
    if (run / RESULT).is_file():
        facts["result"] = read_json(run / RESULT)
    return facts


def write(source: SourceCheckpoint, folder: Path, dtype: torch.dtype) -> list[Path]:
    """Write `encoder.json` and one checkpoint, `step_0`; their paths."""
    groups = {"model": source.tensors} | ({REST: source.extra_tensors} if source.extra_tensors else {})
    tensors = {group: {name: t.to(dtype) for name, t in values.items()} for group, values in groups.items()}
    source.config.save(folder)
    saved = checkpoint.save(folder, checkpoint.Checkpoint(0, tensors, {FACTS: source.facts}), keep=1)
    return [folder / ENCODER, *sorted(saved.iterdir())]


FORMAT = Format(
    Folder(detect, read),
    Target(
        write=write,
        write_tokenizer=lambda source, folder: copy_tokenizer(source, folder / TOKENIZER),
        token_ids=lambda tokenizer, folder, texts: copied_ids(tokenizer, folder / TOKENIZER, texts),
    ),
)
