"""The weights of a Hugging Face folder: `model.safetensors` or the older `pytorch_model.bin`, whole or in shards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from biomlm.convert.safe_load import torch_file
from biomlm.core.errors import CheckpointError, kind
from biomlm.core.files import read_json, write_json

SAFETENSORS = "model.safetensors"
BIN = "pytorch_model.bin"
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
SHARD = 5 * 10**9  # bytes; transformers' own limit for a file


def has_weights(path: Path) -> bool:
    """Return whether weights lie in a folder in one of Hugging Face's files."""
    return any((path / f"{name}{end}").is_file() for name in (SAFETENSORS, BIN) for end in ("", ".index.json"))


def read(path: Path) -> tuple[Path, dict[str, Tensor]]:
    """Read the weights from whichever files there are; the first file, and the tensors."""
    for name, reader in ((SAFETENSORS, _safetensors), (BIN, _bin)):
        files = [path / name] if (path / name).is_file() else _shards(path / f"{name}.index.json")
        if files:
            tensors: dict[str, Tensor] = {}
            for file in files:
                tensors |= reader(file)
            return files[0], tensors
    raise CheckpointError(
        f"there is neither {SAFETENSORS} nor {BIN} in this folder", file=path, remedy="Get the weights as well."
    )


def _shards(index: Path) -> list[Path]:
    """List the files that an index names, each inside the index's folder; none if there is no index."""
    if not index.is_file():
        return []
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("the index has no weight_map", file=index, remedy="Get the whole folder again.")
    return [index.parent / Path(name).name for name in sorted(set(weight_map.values()))]


def _safetensors(file: Path) -> dict[str, Tensor]:
    """Map the tensors of one file into memory.

    Raises:
        CheckpointError: It is missing, truncated or something else.
    """
    try:
        return load_file(file)
    except (SafetensorError, FileNotFoundError) as error:
        raise CheckpointError(
            f"this is not a whole safetensors file ({kind(error)})", file=file, remedy="Get it again."
        ) from None


def _bin(file: Path) -> dict[str, Tensor]:
    """Read the tensors of one file of `torch.save`.

    Raises:
        UnsafeFileError: It wants to run code.
        CheckpointError: It is damaged, or no dictionary of tensors.
    """
    state = torch_file.load(file)
    if not isinstance(state, dict):
        raise CheckpointError("this holds no tensors by name", file=file, remedy="Get the file again.")
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def write(folder: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> list[Path]:
    """Write one file, or shards of at most `SHARD` bytes and their index."""
    shards: list[dict[str, Tensor]] = [{}]
    room = SHARD
    for name, value in tensors.items():
        size = value.numel() * dtype.itemsize
        if shards[-1] and size > room:
            shards.append({})
            room = SHARD
        shards[-1][name] = value
        room -= size
    of = len(shards)
    names = [SAFETENSORS] if of == 1 else [f"model-{i:05}-of-{of:05}.safetensors" for i in range(1, of + 1)]
    for file, shard in zip(names, shards, strict=True):
        write_safetensors(folder / file, shard, dtype)
    if of == 1:
        return [folder / SAFETENSORS]
    weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
    total = sum(value.numel() for value in tensors.values()) * dtype.itemsize
    write_json(folder / f"{SAFETENSORS}.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    return [*(folder / file for file in names), folder / f"{SAFETENSORS}.index.json"]


def write_safetensors(file: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Write a safetensors file tensor by tensor: only one at a time is converted in memory, as safetensors' own writer cannot do.

    The format: the header's length in 8 bytes, the header (JSON, padded to a multiple of 8 bytes), the numbers.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, value in tensors.items():
        end = place + value.numel() * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": list(value.shape), "data_offsets": [place, end]}
        place = end
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for value in tensors.values():
            out.write(value.to(dtype).contiguous().view(-1).view(torch.uint8).numpy().data)
