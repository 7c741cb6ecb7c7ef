"""A teacher's answers for the micro-batches of a run, on disk: `biomlm distill cache` writes them, `biomlm distill --cache` reads them.

    CACHE/manifest.json
    CACHE/cache.json            the key, the teachers' shapes, and what is kept
    CACHE/answers/00000.bin …   blocks of `STEPS` optimiser steps each, in order

A file is 8 bytes of magic, 8 bytes with the index's length, the index as JSON, then the blocks. The index has `[epoch, micro-batch,
offset, length, CRC-32, tokens, masked positions]` of each block. A block also knows the CRC-32 of the micro-batch's ids and positions, so
that answers never meet a micro-batch that they were not given for. Files are written whole or not at all, which is what a
killed run goes on from.
"""

import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import torch

from biomlm.core.errors import DataError, MismatchError
from biomlm.core.files import atomic_file, read_json, sha256
from biomlm.core.manifest import flatten, read_manifest
from biomlm.distill.teachers.cache_blocks import REMEDY, decode, to_targets
from biomlm.distill.teachers.teacher import Answerer, Answers, View, Wanted
from biomlm.model.config import EncoderConfig
from biomlm.pretrain.data.batches import Batch

STAGE = "distill cache"
NAME = "cache.json"
MAGIC = b"BIOLMANS"
STEPS = 16  # optimiser steps of a file

Place = tuple[int, int]  # epoch and index of a micro-batch


@dataclass(frozen=True)
class Block:
    """Where a micro-batch's answers stand.

    Args:
        file: The file.
        offset: First byte.
        length: Bytes.
        crc: CRC-32 of these.
        tokens: Real tokens of the micro-batch.
        masked: Predicted positions in it.
    """

    file: Path
    offset: int
    length: int
    crc: int
    tokens: int
    masked: int


@dataclass(frozen=True)
class Answered:
    """A micro-batch's answers, not yet on disk.

    Args:
        place: Epoch and index.
        tokens: Real tokens of the micro-batch.
        masked: Predicted positions in it.
        block: The answers' bytes.
    """

    place: Place
    tokens: int
    masked: int
    block: bytes

    @staticmethod
    def to(batch: Batch, block: bytes) -> "Answered":
        """The answers to a micro-batch."""
        return Answered((batch.epoch, batch.index), len(batch.packed.input_ids_t), len(batch.labels_m), block)


def check_of(batch: Batch) -> int:
    """CRC-32 of what a micro-batch shows and asks."""
    ids, positions = batch.packed.input_ids_t.cpu().numpy(), batch.positions_m.cpu().numpy()
    return zlib.crc32(positions.tobytes(), zlib.crc32(ids.tobytes()))


def hidden_name(teacher: int, layer: int) -> str:
    """The name of an array of hidden states."""
    return f"hidden.{teacher}.{layer}"


def file_of(folder: str | Path, number: int) -> Path:
    """The file of a run of steps."""
    return Path(folder) / "answers" / f"{number:05}.bin"


def write_blocks(path: Path, answers: Sequence[Answered]) -> None:
    """Write one file, atomically."""
    offset, index = 0, []
    for a in answers:
        index.append([*a.place, offset, len(a.block), zlib.crc32(a.block), a.tokens, a.masked])
        offset += len(a.block)
    line = orjson.dumps(index)
    with atomic_file(path) as tmp, tmp.open("wb") as file:
        file.write(MAGIC + len(line).to_bytes(8, "little") + line)
        file.writelines(a.block for a in answers)


def read_index(path: Path) -> dict[Place, Block]:
    """Where the blocks of one file stand.

    Raises:
        DataError: It is missing, truncated or something else.
    """
    if not path.is_file():
        raise DataError("a file of the cache is missing", file=path, remedy="Run `biomlm distill cache` again.")
    size, front = path.stat().st_size, len(MAGIC) + 8
    with path.open("rb") as file:
        head = file.read(front)
        wanted = int.from_bytes(head[len(MAGIC) :], "little")
        line = file.read(min(wanted, size))
    try:
        index = orjson.loads(line)
        found = {(e, i): Block(path, front + wanted + offset, *rest) for e, i, offset, *rest in index}
        end = max((block.offset + block.length for block in found.values()), default=front + wanted)
    except (ValueError, TypeError):
        end = -1
    if head[: len(MAGIC)] != MAGIC or end < 0:
        raise DataError(f"{size:,} bytes that are no index of answers", file=path, remedy=REMEDY)
    if size != end:
        raise DataError(f"the file has {size:,} bytes, its index says {end:,}", file=path, remedy=REMEDY)
    return found


class CachedTeachers(Answerer):
    """Answers from a cache; the block after the one asked for is read and unpacked meanwhile by a thread.

    Args:
        folder: What `biomlm distill cache` wrote.

    Raises:
        DataError: It is no finished cache, or files are missing or truncated.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder, STAGE)
        name = self.folder / NAME
        facts: Mapping[str, Any] = read_json(name)
        if self.manifest.outputs.get(NAME) != sha256(name):
            raise DataError("it is not what `biomlm distill cache` wrote", file=name, remedy="Make the cache again.")
        super().__init__([EncoderConfig(**{**c, "rope_thetas": tuple(c["rope_thetas"])}) for c in facts["teachers"]])
        self.key: Mapping[str, Any] = facts["key"]
        self.layers: Sequence[Sequence[int]] = facts["layers"]
        self.predictions: bool = facts["predictions"]
        files = [file_of(self.folder, i) for i in range(facts["files"])]
        self.blocks = {place: block for file in files for place, block in read_index(file).items()}
        order = list(self.blocks)
        self.after = dict(pairwise(order))
        self.reader = ThreadPoolExecutor(1)
        self.ahead: tuple[Place, Future[dict[str, npt.NDArray[Any]]]] | None = None

    def require_key(self, wanted: Mapping[str, Any], steps: int) -> None:
        """Refuse a run that is not the one the answers were given for.

        Args:
            wanted: The run's key (`key_of`), without teachers if it has none of its own.
            steps: The run's optimiser steps.

        Raises:
            MismatchError: Seed, masks, sizes, vocabulary, shards or teachers differ, or the run is longer.
        """
        ours, theirs = flatten(dict(wanted)), flatten(dict(self.key))
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise MismatchError(
                    f"the cache was made with {name} {_short(theirs.get(name))}, this run has {_short(value)}",
                    file=self.folder,
                    remedy="Give the run the cache's settings, or make another cache with `biomlm distill cache`.",
                )
        held = int(self.key["steps"])
        if steps > held:
            raise MismatchError(
                f"the cache holds {held:,} steps, this run has {steps:,}",
                file=self.folder,
                remedy=f"Give --steps {held}, or make a longer cache.",
            )

    def require(self, wanted: Sequence[Wanted]) -> None:
        """See `Answerer`."""
        for teacher, (want, held) in enumerate(zip(wanted, self.layers, strict=True)):
            missing = [layer for layer in want.layers if layer not in held]
            if missing or (want.predictions and not self.predictions):
                what = f"hidden states of layer {missing[0]}" if missing else "predictions"
                kept = [f"layer {layer}" for layer in held] + ["predictions"] * self.predictions
                raise MismatchError(
                    f"the loss asks for {what} of teacher {teacher + 1}, the cache keeps {', '.join(kept)}",
                    file=self.folder,
                    remedy="Make the cache with --hidden and that layer, or change the loss.",
                )

    def __call__(self, batch: Batch, wanted: Sequence[Wanted]) -> Answers:
        """See `Answerer`.

        Raises:
            DataError: The block is damaged.
            MismatchError: It was written for another micro-batch.
        """
        place = (batch.epoch, batch.index)
        arrays = self._take(place)
        if int(arrays["check"][0]) != check_of(batch):
            raise MismatchError(
                f"the answers for micro-batch {batch.index} of epoch {batch.epoch} were given for other tokens or masks",
                file=self.folder,
                remedy="Make the cache again.",
            )
        device = batch.packed.input_ids_t.device
        views = [
            View({layer: _tensor(arrays[hidden_name(i, layer)], device) for layer in want.layers})
            for i, want in enumerate(wanted)
        ]
        targets = to_targets(arrays, device) if wanted[0].predictions else None
        return Answers(targets, views)

    def _take(self, place: Place) -> dict[str, npt.NDArray[Any]]:
        ready = self.ahead is not None and self.ahead[0] == place
        arrays = self.ahead[1].result() if self.ahead is not None and ready else self._read(place)
        following = self.after.get(place)
        self.ahead = None if following is None else (following, self.reader.submit(self._read, following))
        return arrays

    def _read(self, place: Place) -> dict[str, npt.NDArray[Any]]:
        block = self.blocks.get(place)
        if block is None:
            raise MismatchError(
                f"the cache has no answers for micro-batch {place[1]} of epoch {place[0]}",
                file=self.folder,
                remedy="Make it longer: a run that went back behind bad steps reads on behind its last one.",
            )
        with block.file.open("rb") as file:
            file.seek(block.offset)
            data = file.read(block.length)
        if zlib.crc32(data) != block.crc:
            where = f"micro-batch {place[1]} of epoch {place[0]}"
            raise DataError("its checksum differs", file=block.file, record=where, remedy=REMEDY)
        return decode(data)


def _tensor(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32)).to(device, non_blocking=True)


def _short(value: object) -> str:
    """A value as an error shows it: of a hash, the beginning."""
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
