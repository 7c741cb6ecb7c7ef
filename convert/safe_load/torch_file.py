"""Open a file of `torch.save` without torch's own reader: the zip format of torch 1.6 and later, and the legacy format before it.

The pickle inside goes through `convert.safe_load.unpickle`; tensors are views of the file mapped into memory, so a large checkpoint costs
no memory until its numbers are used.
"""

import io
import mmap
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biomlm.convert.safe_load.unpickle import Machine, storage_dtype
from biomlm.core.errors import CheckpointError, kind

PREFERRED = ("model.pt", "checkpoint_best.pt", "checkpoint_last.pt")  # of the files in a folder; fairseq's names
ZIP = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py
LEGACY_PROTOCOL = 1001
NOT_BINARY = (b"<", b"{", b"[", b"version https://git-lfs")  # a web page, JSON, a pointer of Git LFS
LOCAL_HEADER = struct.Struct("<4s22xHH")  # a zip member's header up to the lengths of its name and its extra field
MAX_PICKLE = 1 << 26  # bytes of the program that arranges the tensors; real ones have below a megabyte


def is_saved(path: Path) -> bool:
    """Return whether this is a file, or a folder that holds one of `torch.save`."""
    return path.is_file() or (path.is_dir() and any(path.glob("*.pt")))


def choose(path: Path) -> Path:
    """Choose the file itself, or the one checkpoint of a folder.

    Raises:
        CheckpointError: There are several, and none has a preferred name.
    """
    if path.is_file():
        return path
    names = sorted(p.name for p in path.glob("*.pt"))
    preferred = [name for name in PREFERRED if name in names] or (names if len(names) == 1 else [])
    if not preferred:
        some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        problem = f"this folder holds {len(names)} checkpoints: {some}"
        raise CheckpointError(problem, file=path, remedy="Give the path of one of them.")
    return path / preferred[0]


def load(path: str | Path) -> Any:
    """Read what `torch.save` wrote: dictionaries, lists, scalars, tensors and `unpickle.Opaque` objects.

    Raises:
        UnsafeFileError: It names something that could run code.
        CheckpointError: It is damaged or of another kind.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(64).lstrip()
        if not head or head.startswith(NOT_BINARY):
            what = "empty" if not head else "text (a web page, JSON or a pointer), not a checkpoint"
            raise _damaged(path, f"this file is {what}")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return _load_zip(path, mapped) if mapped[:4] == ZIP else _load_legacy(path, mapped)


def _load_zip(path: Path, mapped: mmap.mmap) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            program = next(name for name in members if name.endswith("/data.pkl"))
            if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
                raise _damaged(path, "a member of this file is compressed, which torch never does")
            if members[program].file_size > MAX_PICKLE:
                raise _damaged(path, "the program in this file is larger than any checkpoint's")
            source = io.BytesIO(archive.read(program))
            prefix = program.removesuffix("data.pkl")
            order = archive.read(f"{prefix}byteorder") if f"{prefix}byteorder" in members else b"little"
    except (zipfile.BadZipFile, StopIteration, EOFError, RuntimeError, ValueError, struct.error) as error:
        raise _damaged(path, f"this is not a whole file of torch.save ({kind(error)})") from None
    if order != b"little":
        raise _damaged(path, "its numbers are big-endian")

    def storage(key: tuple[Any, ...]) -> Tensor:
        _, kind, name, _, count = key
        info = members[f"{prefix}data/{name}"]
        signature, name_size, extra_size = LOCAL_HEADER.unpack_from(mapped, info.header_offset)
        if signature != ZIP:
            raise ValueError("a member is not where the index says")
        start = info.header_offset + LOCAL_HEADER.size + name_size + extra_size
        return _numbers(mapped, storage_dtype(kind), start, count, start + info.file_size)

    return Machine(path, _once(storage)).run(source)


def _load_legacy(path: Path, mapped: mmap.mmap) -> Any:
    """Read pickles of magic number, version, system, the object and the order of storages; then the storages, each after its length.

    The object comes before anyone knows where its numbers are, so it is read twice: first for the sizes alone.
    """
    sizes: dict[str, tuple[torch.dtype, int]] = {}

    def measure(key: tuple[Any, ...]) -> Tensor:
        _, kind, name, _, count, *view = key
        if view not in ([], [None]) or type(count) is not int:
            raise ValueError("a view of a storage")
        sizes[name] = (storage_dtype(kind), count)
        return torch.empty(count, dtype=sizes[name][0], device="meta")

    with path.open("rb") as file:
        if Machine(path, measure).run(file) != LEGACY_MAGIC:
            raise _damaged(path, "this is a pickle, but not one of torch.save")
        version, system = (Machine(path, measure).run(file) for _ in range(2))
        if version != LEGACY_PROTOCOL or not isinstance(system, dict) or not system.get("little_endian"):
            raise _damaged(path, "this is an unknown version of torch's format, or big-endian")
        begin = file.tell()
        Machine(path, measure).run(file)
        order = Machine(path, measure).run(file)
        position = file.tell()
    places: dict[str, int] = {}
    try:
        for name in order:
            dtype, count = sizes[name]
            places[name] = position + 8
            position += 8 + count * dtype.itemsize
    except (TypeError, KeyError):
        raise _damaged(path, "its list of storages does not fit its tensors") from None

    def storage(key: tuple[Any, ...]) -> Tensor:
        dtype, count = sizes[key[2]]
        start = places[key[2]]
        if struct.unpack_from("<q", mapped, start - 8)[0] != count:
            raise ValueError("a storage has another length than its tensor")
        return _numbers(mapped, dtype, start, count, len(mapped))

    with path.open("rb") as file:
        file.seek(begin)
        return Machine(path, _once(storage)).run(file)


def _once(storage: Callable[[tuple[Any, ...]], Tensor]) -> Callable[[tuple[Any, ...]], Tensor]:
    """Read each storage once, however often the program asks for it: one that is not aligned is a copy."""
    known: dict[tuple[torch.dtype, str, str], Tensor] = {}

    def read(key: tuple[Any, ...]) -> Tensor:
        name = (storage_dtype(key[1]), str(key[2]), repr(key[4:]))
        if name not in known:
            known[name] = storage(key)
        return known[name]

    return read


def _numbers(mapped: mmap.mmap, dtype: torch.dtype, start: int, count: int, end: int) -> Tensor:
    """View `count` numbers from byte `start` on as a flat tensor, which lies in the file itself where alignment allows it."""
    size = count * dtype.itemsize
    if type(count) is not int or count < 0 or start + size > min(end, len(mapped)):
        raise ValueError("a storage reaches beyond the end of the file")
    if count == 0:
        return torch.empty(0, dtype=dtype)
    if start % dtype.itemsize:
        return torch.frombuffer(mapped, dtype=torch.uint8, count=size, offset=start).clone().view(dtype)
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=start)


def _damaged(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        problem, file=path, remedy="Get the file again and compare its size or hash with the publisher's."
    )
