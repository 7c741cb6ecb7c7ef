"""The one way every room reads a MODEL, of any of `convert.formats.registry`'s formats; they are told apart by content."""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from biomlm.convert.checks.heads import demand_numbers
from biomlm.convert.checks.tokenizers import TransformersRule
from biomlm.convert.formats.base import Folder, SavedFile
from biomlm.convert.formats.registry import FORMATS, find
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.names.hf_architectures import BY_SHAPE
from biomlm.convert.names.table import BIAS, HEAD, Stacked, meta_model, shapes
from biomlm.convert.safe_load import archive, torch_file
from biomlm.core.errors import CheckpointError, DataError, no_model
from biomlm.core.files import sha256
from biomlm.core.manifest import digest
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.kernels.linear import Linear
from biomlm.tokenizer.formats.folder import contents

NEMO = "model_config.yaml"  # what every .nemo holds
REST = "rest: "  # in front of the names of tensors that the model does not have, in a fingerprint


@dataclass(frozen=True)
class Loaded:
    """A model, ready to compute with.

    Args:
        model: In float32, evaluation mode, on the CPU. If the source has no masked-LM head, the model's is new, the same every time.
        config: Its shape.
        kind: The format that it was read from.
        tokenizer_dir: The folder of its tokenizer, if there is one.
        source: The path as given.
        sha256: Of the file that holds the weights (of several, the first).
        facts: What else the source says: training settings, labels, dtype.
        extra_tensors: Tensors of the source that the model does not have, under neutral names (see `convert.names.table`).
        has_head: Whether the source has a masked-LM head. Without one, only `model.encoder` is worth anything.
    """

    model: MaskedLM
    config: EncoderConfig
    kind: str
    tokenizer_dir: Path | None
    source: Path
    sha256: str
    facts: dict[str, Any] = field(default_factory=dict)
    extra_tensors: dict[str, Tensor] = field(default_factory=dict)
    has_head: bool = True

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all that was read, from however many files: shape, tensors, tokenizer. Training changes the tensors in place."""
        tensors = {
            **self.model.state_dict(),
            **{f"{REST}{name}": tensor for name, tensor in self.extra_tensors.items()},
        }
        content = {
            "config": asdict(self.config),
            "has_head": self.has_head,
            "tokenizer": contents(self.tokenizer_dir) if self.tokenizer_dir else None,
            "tensors": {name: [str(t.dtype), list(t.shape), _sha256(t)] for name, t in tensors.items()},
        }
        return digest(content)


def _sha256(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def read_source(path: str | Path, tokenizer: Path | None = None) -> SourceCheckpoint:
    """Read a checkpoint of any kind as it is stored.

    Args:
        path: A run folder or one of its `step_N` folders; a Hugging Face folder; a checkpoint of fairseq or Composer, or its folder;
            a DeepSpeed folder with the model's configuration beside it; a folder of Google's
            BERT, a file of it or what their names begin with; a folder of Megatron-LM's; a `.tar.gz` with one of these.
        tokenizer: A tokenizer folder, or fairseq's files, if the model has none beside it.

    Raises:
        DataError: There is nothing, or nothing known, at the path.
        CheckpointError: It is damaged, incomplete or of another architecture.
        UnsafeFileError: It wants to run code or to write outside its folder.
    """
    path = Path(path)
    if not path.exists() and not _is_model(path):
        raise no_model(path)
    if archive.detect(path):
        source = _read(_inside(archive.unpack(path), path), tokenizer)
        return replace(source, weights=path)
    return _read(path, tokenizer)


def _read(path: Path, tokenizer: Path | None) -> SourceCheckpoint:
    formats = [find(name).source for name in FORMATS]
    for folder in (source for source in formats if isinstance(source, Folder)):
        if folder.detect(path):
            return _with_tokenizer(folder.read(path), tokenizer)
    if path.is_file() and any(isinstance(source, Folder) and path.suffix in source.parts for source in formats):
        raise DataError("this is one file of a model's folder", file=path, remedy=f"Give the folder: {path.parent}")
    if torch_file.is_saved(path):
        file = torch_file.choose(path)
        state = torch_file.load(file)
        saved = next(source for source in formats if isinstance(source, SavedFile) and source.holds(state))
        return saved.read(state, file, tokenizer)
    raise DataError(
        "this is no model of a known kind",
        file=path,
        remedy="Give a run folder, a Hugging Face folder or a checkpoint.",
    )


def _with_tokenizer(source: SourceCheckpoint, tokenizer: Path | None) -> SourceCheckpoint:
    if tokenizer is None:
        return source
    averaged, rule = source.averaged, TransformersRule(tokenizer, BY_SHAPE[source.config.shape].model_type)
    mean = None if averaged is None else lambda: replace(averaged(), tokenizer_dir=tokenizer, token_rule=rule)
    return replace(source, tokenizer_dir=tokenizer, token_rule=rule, averaged=mean)


def _is_model(path: Path) -> bool:
    formats = (find(name).source for name in FORMATS)
    return torch_file.is_saved(path) or any(isinstance(source, Folder) and source.detect(path) for source in formats)


def _inside(folder: Path, path: Path) -> Path:
    """Find the one folder of an unpacked archive that holds a model."""
    models: list[Path] = []
    for inner in [folder, *sorted(p for p in folder.rglob("*") if p.is_dir())]:
        if not any(model in inner.parents for model in models) and _is_model(inner):
            models.append(inner)
    if not models and any(folder.rglob(NEMO)):
        problem = "this is an archive of NeMo, which is not read"
        remedy = "Give the model's release for transformers, or the checkpoint of Megatron-LM that it was made of."
        raise CheckpointError(problem, file=path, remedy=remedy)
    if len(models) != 1:
        raise DataError(
            f"this archive holds {len(models)} models" + "".join(f", {m.relative_to(folder)}" for m in models[:3]),
            file=path,
            remedy="Unpack it and give the folder of one model." if models else "Give the archive of a model.",
        )
    return models[0]


def load_model(path: str | Path) -> Loaded:
    """Read a model of any kind into memory (see `read_source` for the errors): its trained weights, never their running mean.

    The weights are copied out of the file's mapping: someone who overwrites the file must not change a running teacher.

    Raises:
        CheckpointError: They hold NaN or infinity.
    """
    source = read_source(path)
    demand_numbers(source, Path(path))
    if source.averaged:
        print(f"{path}: its weights are taken, not their running mean (EMA), which it holds as well", file=sys.stderr)
    return Loaded(
        model=build(source.config, {name: t.to(torch.float32, copy=True) for name, t in source.tensors.items()}),
        config=source.config,
        kind=source.kind,
        tokenizer_dir=source.tokenizer_dir,
        source=Path(path),
        sha256=sha256(source.weights),
        facts=source.facts,
        extra_tensors=source.extra_tensors,
        has_head=source.has_head,
    )


class SplitLinear(nn.Module):
    """A linear layer whose rows lie in several tensors of a file, each multiplied by itself, so that none is copied."""

    def __init__(self, inputs: int, rows: list[int], bias: bool):
        super().__init__()
        self.parts = nn.ModuleList(Linear(inputs, outputs, bias=bias) for outputs in rows)

    def forward(self, x_th: Tensor) -> Tensor:
        """Map [t, h] → [t, outputs]."""
        return torch.cat([part(x_th) for part in self.parts], dim=-1)


def build(config: EncoderConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = torch.float32) -> MaskedLM:
    """Build the model around the given tensors, without a copy where they have the type already; without a head, it gets a new one.

    Args:
        config: Its shape.
        tensors: As in `SourceCheckpoint`; a layer whose rows are not concatenated yet (`Stacked`) is computed as it is, and cannot be
            trained.
        dtype: The numbers' type in the model; None for that of each tensor.
    """
    stacked = Stacked(tensors)
    stacked.update({} if BIAS in tensors else new_head(config))
    state: dict[str, Tensor] = {}
    model = meta_model(config)
    with torch.device("meta"):
        for name, pieces in stacked.pieces.items():
            module, _, leaf = name.rpartition(".")
            names = [name] if len(pieces) == 1 else [f"{module}.parts.{i}.{leaf}" for i in range(len(pieces))]
            state |= zip(names, pieces, strict=True)
            if len(pieces) > 1 and leaf == "weight":
                rows = [len(piece) for piece in pieces]
                model.set_submodule(module, SplitLinear(pieces[0].shape[1], rows, f"{module}.bias" in stacked))
    state = {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in state.items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def new_head(config: EncoderConfig) -> dict[str, Tensor]:
    """Make an untrained masked-LM head, initialised as `MaskedLM` does it, the same every time."""
    generator = torch.Generator().manual_seed(0)
    head = {name: torch.zeros(shape) for name, shape in shapes(config).items() if name.startswith(HEAD)}
    head["head.norm.weight"].fill_(1)
    head["head.dense.weight"].normal_(std=config.initializer_range, generator=generator)
    return head
