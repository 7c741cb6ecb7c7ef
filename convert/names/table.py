"""The engine that reads a table of tensor names in both directions.

A format's table has one row per module of the native model: the native module's name, with `*` for the layer, and the module or
modules of the other format. Several modules on the right are stacked: the native `qkv` holds the rows of query, key and value.
`.weight` and `.bias` follow the module on both sides. What the native model computes nothing with, but a stranger may need
again (the unused first rows of the positions, a pooler, classification heads), is carried along as `extra_tensors`, under neutral names.
"""

import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from biomlm.core.errors import CheckpointError
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM

Tensors = dict[str, Tensor]

WORDS = "encoder.word_embeddings.weight"
HEAD, BIAS = "head.", "head.bias"
POSITIONS = "encoder.position_embeddings.weight"
TYPES = "encoder.token_type_embeddings.weight"
FRONT = "front.position_embeddings.weight"


class Stacked(MutableMapping[str, Tensor]):
    """Tensors by name. One whose rows lie in several tensors of a file is concatenated when it is asked for, and not before: of a model
    that is mapped into memory none is copied by being listed here.

    Args:
        tensors: What it holds at first.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        whole = tensors.pieces if isinstance(tensors, Stacked) else {name: (t,) for name, t in tensors.items()}
        self.pieces: dict[str, tuple[Tensor, ...]] = dict(whole)

    def __getitem__(self, name: str) -> Tensor:
        pieces = self.pieces[name]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def __setitem__(self, name: str, value: Tensor) -> None:
        self.pieces[name] = (value,)

    def __delitem__(self, name: str) -> None:
        del self.pieces[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def all_pieces(self) -> list[Tensor]:
        """Every tensor as the file has it."""
        return [piece for pieces in self.pieces.values() for piece in pieces]


@dataclass(frozen=True)
class Table:
    """How one format names the native model's modules.

    Args:
        modules: Native module → modules of the format.
        tied: Tensors of the format that repeat a native one; equality is checked on reading.
        extra_names: Pattern of a module that is carried along → its neutral name; groups are filled in.
        ignored: Pattern of a tensor that holds no weights → whether its value is acceptable.
        behind_padding: Whether positions begin at row pad + 1 instead of 0.
    """

    modules: Mapping[str, tuple[str, ...]]
    tied: Mapping[str, str]
    extra_names: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, Callable[[Tensor], bool]] = field(default_factory=dict)
    behind_padding: bool = False

    def foreign_names(self, native: str) -> list[str]:
        """Give the format's names for one native tensor, in the order of its rows."""
        module, _, leaf = native.rpartition(".")
        layer = re.search(r"(?<=\.layers\.)\d+", module)
        pattern = re.sub(r"(?<=\.layers\.)\d+", "*", module)
        number = layer[0] if layer else ""
        return [f"{name.replace('*', number)}.{leaf}" for name in self.modules[pattern]]


class _Unfilled(TorchFunctionMode):
    """Skips `nn.init.normal_`: on the meta device it fills nothing, and it imports torch's compiler for that, which takes a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        return named["tensor"] if func is nn.init.normal_ else func(*args, **named)


def meta_model(config: EncoderConfig) -> MaskedLM:
    """Make the native model on the meta device: its tensors have shapes and no numbers."""
    with torch.device("meta"), _Unfilled():
        return MaskedLM(config)


def shapes(config: EncoderConfig, has_head: bool = True) -> dict[str, tuple[int, ...]]:
    """Give name and shape of every tensor of the native model, or of its encoder alone, without allocating it."""
    state = meta_model(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if has_head or not name.startswith(HEAD)}


def to_native(
    table: Table, tensors: Mapping[str, Tensor], config: EncoderConfig, file: Path, has_head: bool = True
) -> tuple[Stacked, Tensors]:
    """Translate a format's tensors; return the native ones, and those that the native model does not have.

    Args:
        table: The format's.
        tensors: Everything that the checkpoint holds.
        config: Which tensors there must be, and their shapes.
        file: The checkpoint, for messages.
        has_head: Whether there must be a masked-LM head.

    Raises:
        CheckpointError: A tensor is missing, surplus, of a wrong shape, or not equal to the one it should repeat.
    """
    left = dict(tensors)
    native = Stacked({})
    extra_tensors: Tensors = {}
    for name, shape in shapes(config, has_head).items():
        front = config.pad_token_id + 1 if name == POSITIONS and table.behind_padding else 0
        pieces = _taken(left, table.foreign_names(name), (shape[0], front, shape[1:]), name.startswith(HEAD), file)
        native.pieces[name] = (*pieces,) if len(pieces) > 1 else (pieces[0][front:],)
        if front:
            extra_tensors[FRONT] = pieces[0][:front]
    for name, value in left.items():
        neutral = _neutral(table, name, value, native, file)
        if neutral:
            extra_tensors[neutral] = value
    return native, extra_tensors


def _taken(
    left: Tensors, names: list[str], shape: tuple[int, int, tuple[int, ...]], of_head: bool, file: Path
) -> list[Tensor]:
    """Take the tensors that make up a native one, if they are there and have its shape.

    Args:
        left: Where they are taken from.
        names: The names of those tensors.
        shape: The native tensor's rows, rows that stand before these in the format, and the other dimensions.
        of_head: Whether the native tensor is the masked-LM head's.
        file: The checkpoint, for messages.
    """
    absent = [name for name in names if name not in left]
    if absent:
        problem = f"{'it has no masked-LM head: ' if of_head else ''}the tensor {absent[0]} is missing"
        raise _refused(file, problem, "Get the whole checkpoint again, and its settings with it.")
    rows, front, others = shape
    expected = (rows // len(names) + front, *others)
    for name in names:
        tensor = left[name]
        if not tensor.is_floating_point():
            problem = f"the tensor {name} holds {tensor.dtype}, not floating-point numbers"
            raise _refused(file, problem, "Give the model as it was before it was quantised.")
        if tuple(tensor.shape) != expected:
            problem = f"the tensor {name} has shape {tuple(tensor.shape)}, not {expected}"
            raise _refused(file, problem, "Its sizes and its configuration disagree; get both from one release.")
    return [left.pop(name) for name in names]


def _neutral(table: Table, name: str, value: Tensor, native: Mapping[str, Tensor], file: Path) -> str | None:
    """Find the neutral name of a tensor that no row of the table asked for; None if it says nothing new."""
    if name in table.tied:
        if not torch.equal(value, native[table.tied[name]]):
            raise _refused(
                file,
                f"the tensor {name} is not tied to the embeddings",
                "Give a model with a tied decoder; untied ones cannot be converted.",
            )
        return None
    for pattern, acceptable in table.ignored.items():
        if re.fullmatch(pattern, name):
            if not acceptable(value):
                raise _refused(file, f"the tensor {name} should be unused but has values", "Report this checkpoint.")
            return None
    for pattern, neutral in table.extra_names.items():
        if match := re.fullmatch(pattern, name.rpartition(".")[0]):
            return f"{match.expand(neutral)}.{name.rpartition('.')[2]}"
    raise _refused(
        file,
        f"the tensor {name} is unexpected",
        "Give a model of an architecture that docs/convert.md lists; this is another, or a fork.",
    )


def from_native(table: Table, native: Mapping[str, Tensor], extra_tensors: Mapping[str, Tensor], front: int) -> Tensors:
    """Translate native tensors into a format's: the reverse of `to_native`, for the native tensors.

    Args:
        table: The format's.
        native: The model's state dict.
        extra_tensors: What was carried along; only the positions' first rows are used here.
        front: How many rows the format's positions have before the first token's.
    """
    stacked = Stacked(native)
    tensors: Tensors = {}
    for name, pieces in stacked.pieces.items():
        names = table.foreign_names(name)
        blocks = pieces if len(pieces) == len(names) else stacked[name].chunk(len(names))
        if name == POSITIONS and front:
            rows = extra_tensors.get(FRONT, blocks[0].new_zeros(front, blocks[0].shape[1]))
            blocks = (torch.cat([rows.to(blocks[0].dtype), blocks[0]]),)
        tensors |= zip(names, blocks, strict=True)
    return tensors


def common_dtype(tensors: Mapping[str, Tensor]) -> str:
    """Find the number type that holds all of a model's tensors without loss, such as `float16`."""
    dtypes = (piece.dtype for piece in Stacked(tensors).all_pieces)
    return str(reduce(torch.promote_types, dtypes)).removeprefix("torch.")


def count_layers(names: Sequence[str], pattern: str) -> int:
    """Count the layers that a checkpoint has tensors of; `pattern` has one group, the layer's number."""
    layers = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    return max(layers, default=-1) + 1


def _refused(file: Path, problem: str, remedy: str) -> CheckpointError:
    return CheckpointError(problem, file=file, remedy=remedy)
