"""Read and write a teacher's outputs for the micro-batches of a run: `biomlm distill cache` writes them, `biomlm distill --cache` reads.

    CACHE/manifest.json
    CACHE/cache.json            the key, the teachers' shapes, and what is kept
    CACHE/answers/00000.bin …   blocks of `STEPS` optimiser steps each, in order

A file is 8 bytes of magic, 8 bytes with the index's length, the index as JSON, then the blocks. The index has `[epoch, micro-batch,
offset, length, CRC-32, tokens, masked positions]` of each block. A block also holds the CRC-32 of its micro-batch's ids and positions, so
that outputs are never used for another micro-batch. Files are written atomically, and a killed run goes on behind the last whole one.
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

from biomlm.core.errors import DataError, MismatchError, UserError
from biomlm.core.files import atomic_file, read_json, sha256
from biomlm.core.manifest import flatten, read_manifest
from biomlm.distill.teachers.cache_blocks import REMEDY, decode, decode_targets
from biomlm.distill.teachers.teacher import TeacherOutputs, TeacherRequest, TeacherSource, TeacherStates
from biomlm.model.config import EncoderConfig
from biomlm.model.device import send
from biomlm.pretrain.data.batches import Batch

STAGE = "distill cache"
NAME = "cache.json"
MAGIC = b"BIOLMANS"
STEPS = 16  # optimiser steps of a file

BatchId = tuple[int, int]  # epoch and index of a micro-batch


@dataclass(frozen=True, kw_only=True)
class BlockEntry:
    """The position of a micro-batch's outputs in a file of the cache.

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
class EncodedOutputs:
    """A micro-batch's outputs, not yet on disk.

    Args:
        batch_id: Epoch and index.
        tokens: Real tokens of the micro-batch.
        masked: Predicted positions in it.
        block: The outputs' bytes.
    """

    batch_id: BatchId
    tokens: int
    masked: int
    block: bytes

    @staticmethod
    def of(batch: Batch, block: bytes) -> "EncodedOutputs":
        """Label a micro-batch's block with what the index lists of it."""
        return EncodedOutputs((batch.epoch, batch.index), len(batch.packed.input_ids_t), len(batch.labels_m), block)


def batch_checksum(batch: Batch) -> int:
    """Give the CRC-32 of a micro-batch's token ids and predicted positions."""
    source = batch.on_host
    ids, positions = source.packed.input_ids_t.numpy(), source.positions_m.numpy()
    return zlib.crc32(positions.tobytes(), zlib.crc32(ids.tobytes()))


def hidden_name(teacher: int, layer: int) -> str:
    """Name the array of a teacher's hidden states after a layer."""
    return f"hidden.{teacher}.{layer}"


def block_file(folder: str | Path, number: int) -> Path:
    """Give the path of the cache's `number`-th file, which holds `STEPS` optimiser steps."""
    return Path(folder) / "answers" / f"{number:05}.bin"


def write_blocks(path: Path, blocks: Sequence[EncodedOutputs]) -> None:
    """Write one file of the cache, atomically."""
    offset, index = 0, []
    for outputs in blocks:
        crc = zlib.crc32(outputs.block)
        index.append([*outputs.batch_id, offset, len(outputs.block), crc, outputs.tokens, outputs.masked])
        offset += len(outputs.block)
    line = orjson.dumps(index)
    with atomic_file(path) as tmp, tmp.open("wb") as file:
        file.write(MAGIC + len(line).to_bytes(8, "little") + line)
        file.writelines(outputs.block for outputs in blocks)


def read_index(path: Path) -> dict[BatchId, BlockEntry]:
    """Read where the blocks of one file begin.

    Raises:
        DataError: The file is missing, truncated or no file of a cache.
    """
    if not path.is_file():
        raise DataError("a file of the cache is missing", file=path, remedy="Run `biomlm distill cache` again.")
    size, header_size = path.stat().st_size, len(MAGIC) + 8
    with path.open("rb") as file:
        header = file.read(header_size)
        index_size = int.from_bytes(header[len(MAGIC) :], "little")
        line = file.read(min(index_size, size))
    data_start = header_size + index_size
    try:
        rows = orjson.loads(line)
        if not all(type(number) is int and number >= 0 for row in rows for number in row):
            raise TypeError
        entries = {
            (epoch, index): BlockEntry(
                file=path, offset=data_start + offset, length=length, crc=crc, tokens=tokens, masked=masked
            )
            for epoch, index, offset, length, crc, tokens, masked in rows
        }
        end = max((entry.offset + entry.length for entry in entries.values()), default=data_start)
    except (ValueError, TypeError):
        end = -1
    if header[: len(MAGIC)] != MAGIC or end < 0:
        raise DataError(f"{size:,} bytes that are no index of answers", file=path, remedy=REMEDY)
    if size != end:
        raise DataError(f"the file has {size:,} bytes, its index says {end:,}", file=path, remedy=REMEDY)
    return entries


NO_CHECK = np.zeros(0, np.uint32)


class CachedTeachers(TeacherSource):
    """Teachers whose outputs are read from a cache; a thread reads and unpacks the next block while the step is computed.

    Args:
        folder: What `biomlm distill cache` wrote.

    Raises:
        DataError: The folder is no finished cache, or files are missing or truncated.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder, STAGE)
        name = self.folder / NAME
        facts: Mapping[str, Any] = read_json(name)
        if self.manifest.outputs.get(NAME) != sha256(name):
            raise DataError("it is not what `biomlm distill cache` wrote", file=name, remedy="Make the cache again.")
        try:
            super().__init__(
                [EncoderConfig(**{**c, "rope_thetas": tuple(c["rope_thetas"])}) for c in facts["teachers"]]
            )
            self.vocab_size = min(config.vocab_size for config in self.configs)
            self.key: Mapping[str, Any] = dict(facts["key"])
            self.layers: Sequence[Sequence[int]] = [list(layers) for layers in facts["layers"]]
            self.predictions = bool(facts["predictions"])
            files = (block_file(self.folder, i) for i in range(facts["files"]))
            self.entries = {batch_id: entry for file in files for batch_id, entry in read_index(file).items()}
        except UserError:
            raise
        except (KeyError, TypeError, ValueError):
            problem = "it is not what `biomlm distill cache` writes"
            raise DataError(problem, file=name, remedy="Make the cache again.") from None
        self.next_id = dict(pairwise(self.entries))
        self.reader = ThreadPoolExecutor(1)
        self.prefetched: tuple[BatchId, Future[dict[str, npt.NDArray[Any]]]] | None = None

    def require_key(self, run_key: Mapping[str, Any], steps: int) -> None:
        """Refuse a run other than the one that the cache was made for.

        Args:
            run_key: The run's key (`key_of`), without teachers if it has none of its own.
            steps: The run's optimiser steps.

        Raises:
            MismatchError: Seed, masks, sizes, vocabulary, shards or teachers differ, or the run is longer.
        """
        cache_key = flatten(dict(self.key))
        for name, value in flatten(dict(run_key)).items():
            if cache_key.get(name) != value:
                raise MismatchError(
                    f"the cache was made with {name} {_short(cache_key.get(name))}, this run has {_short(value)}",
                    file=self.folder,
                    remedy="Give the run the cache's settings, or make another cache with `biomlm distill cache`.",
                )
        cached_steps = int(self.key["steps"])
        if steps > cached_steps:
            raise MismatchError(
                f"the cache holds {cached_steps:,} steps, this run has {steps:,}",
                file=self.folder,
                remedy=f"Give --steps {cached_steps}, or make a longer cache.",
            )

    def require(self, requests: Sequence[TeacherRequest]) -> None:
        """See `TeacherSource`."""
        for teacher, (request, cached_layers) in enumerate(zip(requests, self.layers, strict=True)):
            missing = [layer for layer in request.layers if layer not in cached_layers]
            if missing or (request.predictions and not self.predictions):
                what = f"hidden states of layer {missing[0]}" if missing else "predictions"
                kept = [f"layer {layer}" for layer in cached_layers] + ["predictions"] * self.predictions
                raise MismatchError(
                    f"the loss asks for {what} of teacher {teacher + 1}, the cache keeps {', '.join(kept)}",
                    file=self.folder,
                    remedy="Make the cache with --hidden and that layer, or change the loss.",
                )

    def __call__(self, batch: Batch, requests: Sequence[TeacherRequest]) -> TeacherOutputs:
        """See `TeacherSource`.

        Raises:
            DataError: The block is damaged.
            MismatchError: The block was written for another micro-batch.
        """
        batch_id = (batch.epoch, batch.index)
        arrays = self._fetch(batch_id)
        if arrays.get("check", NO_CHECK).tolist() != [batch_checksum(batch)]:
            raise MismatchError(
                f"the answers for micro-batch {batch.index} of epoch {batch.epoch} were given for other tokens or masks",
                file=self.folder,
                remedy="Make the cache again.",
            )
        device, tokens = batch.packed.input_ids_t.device, len(batch.packed.input_ids_t)
        names = [[(layer, hidden_name(i, layer)) for layer in request.layers] for i, request in enumerate(requests)]
        if any(name not in arrays or len(arrays[name]) != tokens for of_teacher in names for _, name in of_teacher):
            raise DataError("a block has not the hidden states that it should", file=self.folder, remedy=REMEDY)
        states = [TeacherStates({layer: _to_tensor(arrays[name], device) for layer, name in row}) for row in names]
        targets = decode_targets(arrays, self.vocab_size, device) if requests[0].predictions else None
        return TeacherOutputs(targets, states)

    def _fetch(self, batch_id: BatchId) -> dict[str, npt.NDArray[Any]]:
        """Read a block, or take it from the thread, and let the thread begin with the next one."""
        hit = self.prefetched is not None and self.prefetched[0] == batch_id
        arrays = self.prefetched[1].result() if self.prefetched is not None and hit else self._read(batch_id)
        following = self.next_id.get(batch_id)
        self.prefetched = None if following is None else (following, self.reader.submit(self._read, following))
        return arrays

    def _read(self, batch_id: BatchId) -> dict[str, npt.NDArray[Any]]:
        entry = self.entries.get(batch_id)
        if entry is None:
            raise MismatchError(
                f"the cache has no answers for micro-batch {batch_id[1]} of epoch {batch_id[0]}",
                file=self.folder,
                remedy="Make it longer: a run that went back behind bad steps reads on behind its last one.",
            )
        with entry.file.open("rb") as file:
            file.seek(entry.offset)
            block = file.read(entry.length)
        if zlib.crc32(block) != entry.crc:
            record = f"micro-batch {batch_id[1]} of epoch {batch_id[0]}"
            raise DataError("its checksum differs", file=entry.file, record=record, remedy=REMEDY)
        return decode(block)


def _to_tensor(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    return send(torch.from_numpy(array.astype(np.float32)), device)


def _short(value: object) -> str:
    """Shorten a hash for an error; other values are shown whole."""
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
