"""Google's BERT as TensorFlow saved it (`X.ckpt.index`, `X.ckpt.data-…`, `bert_config.json`), read without TensorFlow.

The index is a sorted table in LevelDB's format (tensorflow/core/lib/io/table_format.txt) of protocol buffers (tensor_bundle.proto)
that say where in the data files each tensor lies. TensorFlow's matrices are transposed against PyTorch's; its names are brought to those
of transformers' BertForPreTraining, whose table does the rest.
"""

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biomlm.convert.formats import hf
from biomlm.convert.formats.base import Folder, Format
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.names.hf_architectures import BERT
from biomlm.core.errors import CheckpointError
from biomlm.core.files import read_json

CONFIG = "bert_config.json"
MAGIC = 0xDB4775248B80FB57
FOOTER = 48  # bytes: two block handles, padding, the magic number
DTYPES: dict[int, "np.dtype[Any]"] = {
    1: np.dtype("<f4"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
}  # tensorflow/core/framework/types.proto

NAMES = (
    (r"/", "."),
    (r"\.layer_(\d+)\.", r".layer.\1."),
    (r"\.(kernel|gamma)$", ".weight"),
    (r"\.beta$", ".bias"),
    (r"_embeddings$", "_embeddings.weight"),
    (r"^cls\.predictions\.output_bias$", "cls.predictions.bias"),
    (r"^cls\.seq_relationship\.output_weights$", "cls.seq_relationship.weight"),
    (r"^cls\.seq_relationship\.output_bias$", "cls.seq_relationship.bias"),
)


@dataclass(frozen=True)
class Entry:
    """The place of a tensor in the data files.

    Args:
        dtype: TensorFlow's number of its type.
        shape: Its sizes.
        shard: Which data file.
        offset: Its first byte there.
        size: Its bytes.
    """

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


def detect(path: Path) -> bool:
    """Return whether this is a checkpoint of TensorFlow's: its folder, one of its files, or what their names begin with."""
    return _index(path) is not None


def _index(path: Path) -> Path | None:
    """Find the index of a checkpoint with its configuration beside it."""
    if path.is_dir():
        indexes = list(path.glob("*.index"))
        index = indexes[0] if len(indexes) == 1 else None
    else:
        index = path.with_name(re.sub(r"(\.index|\.meta|\.data-\d+-of-\d+)?$", ".index", path.name, count=1))
    return index if index and index.is_file() and (index.parent / CONFIG).is_file() else None


def read(path: Path) -> SourceCheckpoint:
    """Read a folder of Google's BERT.

    Raises:
        CheckpointError: It is damaged, or no BERT.
    """
    index = _index(path)
    assert index is not None
    tensors = {_name(key): value for key, value in load(index).items()}
    raw = {"model_type": BERT.model_type, **read_json(index.parent / CONFIG, remedy="Get the whole folder again.")}
    weights = sorted(index.parent.glob(f"{index.stem}.data-*"))[0]
    return replace(hf.from_tensors(index.parent, raw, tensors, weights), kind="tensorflow")


def _name(key: str) -> str:
    """Give transformers' name of a variable."""
    for pattern, replacement in NAMES:
        key = re.sub(pattern, replacement, key)
    return key


def load(index: Path) -> dict[str, Tensor]:
    """Read every tensor of a checkpoint under TensorFlow's names, matrices of dense layers (`kernel`) transposed to PyTorch's order.

    Args:
        index: The file `X.index`; `X.data-00000-of-0000N` lie beside it.

    Raises:
        CheckpointError: A file is damaged or missing.
    """
    try:
        entries = {key.decode(): _entry(value) for key, value in _table(index.read_bytes()) if key}
        shards = sorted(index.parent.glob(f"{index.stem}.data-*"))
        maps = [np.memmap(shard, dtype=np.uint8, mode="c") for shard in shards]
        return {name: _tensor(name, entry, maps) for name, entry in entries.items() if not _is_training(name, entries)}
    except (IndexError, KeyError, ValueError, struct.error, OverflowError) as error:
        raise CheckpointError(
            f"this is not a whole checkpoint of TensorFlow ({type(error).__name__})",
            file=index,
            remedy="Get the files again and compare their sizes with the publisher's.",
        ) from None


def _is_training(name: str, entries: Mapping[str, Entry]) -> bool:
    """Return whether a variable is the training's and not the model's: a number alone (steps, scales), or an optimiser's.

    Whatever the optimiser, TensorFlow names its variables after the one that they are of, with something behind it.
    """
    parts = name.split("/")
    return not entries[name].shape or any("/".join(parts[:i]) in entries for i in range(1, len(parts)))


def _tensor(name: str, entry: Entry, maps: list["np.memmap[tuple[int], np.dtype[np.uint8]]"]) -> Tensor:
    kind = DTYPES[entry.dtype]
    if entry.size != math.prod(entry.shape) * kind.itemsize or entry.offset + entry.size > len(maps[entry.shard]):
        raise ValueError("a tensor reaches beyond its file")
    values = torch.from_numpy(
        np.frombuffer(maps[entry.shard], kind, math.prod(entry.shape), entry.offset).reshape(entry.shape)
    )
    return values.T if name.endswith("/kernel") else values


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a sorted table: its index block names the data blocks."""
    if struct.unpack("<Q", content[-8:])[0] != MAGIC:
        raise ValueError("no table")
    _, place = _handle(content, len(content) - FOOTER)  # of the block of meta data, which is not needed
    (offset, size), _ = _handle(content, place)
    for _, handle in _block(content, offset, size):
        (start, length), _ = _handle(handle, 0)
        yield from _block(content, start, length)


def _handle(content: bytes, place: int) -> tuple[tuple[int, int], int]:
    offset, place = _varint(content, place)
    size, place = _varint(content, place)
    return (offset, size), place


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a block: each key shares its first bytes with the one before."""
    if content[offset + size] != 0:
        raise ValueError("a compressed block")
    block = content[offset : offset + size]
    end = size - 4 * (1 + struct.unpack("<I", block[-4:])[0])  # behind the entries: places to start reading from
    place, key = 0, b""
    while place < end:
        shared, place = _varint(block, place)
        own, place = _varint(block, place)
        length, place = _varint(block, place)
        key = key[:shared] + block[place : place + own]
        place += own
        yield key, block[place : place + length]
        place += length


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a protocol buffer."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        if tag & 7 == 0:
            value, place = _varint(message, place)
            yield tag >> 3, value
        elif tag & 7 == 2:
            length, place = _varint(message, place)
            yield tag >> 3, message[place : place + length]
            place += length
        else:
            width = {1: 8, 5: 4}[tag & 7]
            yield tag >> 3, message[place : place + width]
            place += width


def _entry(message: bytes) -> Entry:
    """Parse a BundleEntryProto: 1 dtype, 2 shape (2 dim (1 size)), 3 shard, 4 offset, 5 size."""
    fields = dict(_fields(message))
    shape = fields.get(2, b"")
    numbers = [fields.get(i, 0) for i in (1, 3, 4, 5)]
    if not isinstance(shape, bytes) or not all(isinstance(n, int) for n in numbers):
        raise ValueError("an entry of another kind")
    sizes = tuple(_size(dim) for number, dim in _fields(shape) if number == 2)
    dtype, shard, offset, size = (n for n in numbers if isinstance(n, int))
    return Entry(dtype, sizes, shard, offset, size)


def _size(dimension: int | bytes) -> int:
    value = dict(_fields(dimension)).get(1, 0) if isinstance(dimension, bytes) else None
    if not isinstance(value, int):
        raise ValueError("a size that is no number")
    return value


FORMAT = Format(Folder(detect, read))
