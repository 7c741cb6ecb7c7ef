"""Write and read token shards (docs/design.md, section 3): fairseq's memory-mapped `.bin` and `.idx`, with documents and segments.

`.bin` is the ids of all items, end to end. `.idx` is the magic `MMIDIDX\\0\\0`, version 1 (uint64), the type code (uint8), the number
of items (uint64), their sizes (int32 each) and byte offsets (int64 each), little-endian. Source: fairseq's
`fairseq/data/indexed_dataset.py`, class `MMapIndexedDataset`.
"""

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from biomlm.core.errors import DataError, kind
from biomlm.core.files import atomic_file
from biomlm.core.manifest import Manifest, read_manifest
from biomlm.inputs.streams import compressed, open_lines
from biomlm.tokenizer.formats import folder

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQ")
CODES: Mapping[int, npt.DTypeLike] = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    8: np.uint16,
    9: np.uint32,
    10: np.uint64,
}
STAGE = "tokenizer encode"
POS = ".pos.npy"
DOCS_LEVEL = 6  # gzip level of docs.jsonl.gz
REMEDY = "Make the shards again with `biomlm tokenizer encode`."

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


def id_type(vocab_size: int) -> np.dtype[Any]:
    """Return the type of stored ids: uint16 where the vocabulary fits, else int32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)


class ShardWriter:
    """Write one split, streaming; the index and the other files are written when it closes without an error.

    Args:
        prefix: Folder and split, such as `SHARDS/train`.
        dtype: From `id_type`.
        pos: Write the parts of speech as well.
    """

    def __init__(self, prefix: Path, dtype: np.dtype[Any], pos: bool = False):
        self.prefix, self.dtype, self.has_pos = prefix, dtype, pos
        prefix.parent.mkdir(parents=True, exist_ok=True)
        self.paths = [
            prefix.with_name(prefix.name + ending) for ending in (".bin", ".idx", ".doc_index.npy", ".segments.npy")
        ]
        self.paths.append(prefix.with_name(prefix.name + ".docs.jsonl.gz"))
        self.paths += [prefix.with_name(prefix.name + POS)] if pos else []

    def __enter__(self) -> "ShardWriter":
        self.sizes: list[I32] = []
        self.doc_starts: list[I64] = []
        self.segment_starts: list[I64] = []
        self.items = 0
        self.stack = ExitStack()
        self.bin = self.stack.enter_context(self.stack.enter_context(atomic_file(self.paths[0])).open("wb"))
        self.docs = self.stack.enter_context(
            compressed(self.stack.enter_context(atomic_file(self.paths[4])), DOCS_LEVEL)
        )
        self.pos = None
        for path in self.paths[5:]:
            self.pos = self.stack.enter_context(self.stack.enter_context(atomic_file(path)).open("wb"))
            self.pos.write(_npy_header(0))
        return self

    def append(
        self,
        tokens: npt.NDArray[Any],
        sizes: I32,
        doc_starts: I64,
        segment_starts: I64,
        docs: bytes,
        pos: U8 | None = None,
    ) -> None:
        """Append whole documents.

        Args:
            tokens: [tokens] ids of all items, end to end.
            sizes: [items] tokens of each item.
            doc_starts: [documents] first item of each document, counted from the first item here.
            segment_starts: [segments] first item of each segment, likewise.
            docs: Their lines for `docs.jsonl.gz`.
            pos: [tokens] the part of speech of each, if they are written.
        """
        assert int(sizes.sum()) == len(tokens)
        assert (self.pos is None) == (pos is None)
        if self.pos is not None and pos is not None:
            assert len(pos) == len(tokens)
            self.pos.write(pos.data)
        self.bin.write(np.ascontiguousarray(tokens, dtype=self.dtype).data)
        self.docs.write(docs)
        self.sizes.append(sizes)
        self.doc_starts.append(doc_starts + self.items)
        self.segment_starts.append(segment_starts + self.items)
        self.items += len(sizes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sizes = np.concatenate([*self.sizes, np.zeros(0, dtype=np.int32)])
        if self.pos is not None:
            self.pos.seek(0)
            self.pos.write(_npy_header(int(sizes.sum(dtype=np.int64))))
        self.stack.__exit__(kind, error, trace)
        if kind is not None:
            return
        with atomic_file(self.paths[1]) as tmp, tmp.open("wb") as file:
            code = next(code for code, dtype in CODES.items() if np.dtype(dtype) == self.dtype)
            file.write(HEADER.pack(MAGIC, VERSION, code, len(sizes)))
            file.write(sizes.astype("<i4").tobytes())
            file.write((_offsets(sizes)[:-1] * self.dtype.itemsize).astype("<i8").tobytes())
        end = [np.array([self.items], dtype=np.int64)]
        for path, starts in ((self.paths[2], self.doc_starts), (self.paths[3], self.segment_starts)):
            with atomic_file(path) as tmp, tmp.open("wb") as file:
                np.save(file, np.concatenate(starts + end), allow_pickle=False)


class ShardReader:
    """Read one split of a folder of shards; all of it stays on disk until it is read.

    Args:
        folder: What `biomlm tokenizer encode` wrote.
        split: `train` or `valid`.

    Raises:
        DataError: A file is missing, damaged, or does not belong to the others.
    """

    def __init__(self, folder: str | Path, split: str):
        self.folder, self.split = Path(folder), split
        self.manifest: Manifest = read_manifest(folder, STAGE)
        self.dtype, self.sizes = read_index(self._file(".idx"))
        self.offsets = _offsets(self.sizes)
        size, expected = self._file(".bin").stat().st_size, int(self.offsets[-1]) * self.dtype.itemsize
        if size != expected:
            problem = f"it has {size} bytes, and its .idx speaks of {expected}"
            raise DataError(problem, file=self._file(".bin"), remedy=REMEDY)

    def _file(self, ending: str) -> Path:
        path = self.folder / f"{self.split}{ending}"
        if not path.is_file():
            raise DataError("there is no such file", file=path, remedy=REMEDY)
        return path

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.sizes)

    def __getitem__(self, item: int) -> npt.NDArray[Any]:
        """Return the ids of one item, [size]."""
        return self.tokens[self.offsets[item] : self.offsets[item + 1]]

    @cached_property
    def tokens(self) -> npt.NDArray[Any]:
        """The ids of all items, end to end, [tokens]; a read-only memory map."""
        return map_tokens(self._file(".bin"), self.dtype)

    @cached_property
    def doc_index(self) -> I64:
        """The first item of every document, then the number of items, [documents + 1]."""
        return self._starts(".doc_index.npy")

    @cached_property
    def segments(self) -> I64:
        """The first item of every segment, then the number of items, [segments + 1]."""
        return self._starts(".segments.npy")

    @cached_property
    def pos(self) -> U8 | None:
        """The part of speech of every token, [tokens]; None if the shards were made without `--pos`.

        Numbered as `biomlm.tokenizer.upos.UPOS` from 1 on, 0 for none; a read-only memory map.
        """
        if self.split + POS not in self.manifest.outputs:
            return None
        tags = self._array(POS)
        if tags.dtype != np.uint8 or tags.shape != self.tokens.shape:
            problem = f"it is not the {len(self.tokens)} numbers of one byte that its .bin has tokens"
            raise DataError(problem, file=self._file(POS), remedy=REMEDY)
        return tags

    def _array(self, ending: str) -> npt.NDArray[Any]:
        path = self._file(ending)
        try:
            array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, SyntaxError, TokenError, OverflowError) as error:
            raise DataError(f"this is not a NumPy array ({kind(error)})", file=path, remedy=REMEDY) from None
        return array

    def _starts(self, ending: str) -> I64:
        path, starts = self._file(ending), self._array(ending)
        if starts.dtype != np.int64 or starts.ndim != 1 or not len(starts) or starts[-1] != len(self):
            raise DataError(f"it does not end with the {len(self)} items of its .idx", file=path, remedy=REMEDY)
        if starts[0] != 0 or (np.diff(starts) <= 0).any():
            raise DataError("its items do not ascend from 0", file=path, remedy=REMEDY)
        return starts

    def documents(self) -> Iterator[dict[str, Any]]:
        """Yield `id`, `source` and `links` of every document, in order."""
        with self._file(".docs.jsonl.gz").open("rb") as file:
            for line in open_lines(file, remedy=REMEDY):
                yield orjson.loads(line)

    @cached_property
    def tokenizer(self) -> folder.Tokenizer:
        """The tokenizer that made these shards."""
        tokenizer = folder.load(self.folder / "tokenizer")
        if tokenizer.fingerprint != self.manifest.inputs.get("tokenizer"):
            problem = "this is not the tokenizer that the manifest of the shards names"
            raise DataError(problem, file=self.folder / "tokenizer", remedy=REMEDY)
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """The number of ids of the tokenizer."""
        return self.tokenizer.vocab_size

    @property
    def ids(self) -> folder.SpecialIds:
        """The tokenizer's special ids."""
        return self.tokenizer.ids

    @property
    def fingerprint(self) -> str:
        """The hash of the shards, which changes with any of their bytes."""
        return self.manifest.fingerprint

    @property
    def counts(self) -> Mapping[str, Any]:
        """The manifest's counts of this split."""
        counts: Mapping[str, Any] = self.manifest.counts[self.split]
        return counts


def read_index(path: Path) -> tuple[np.dtype[Any], I32]:
    """Read the type of the ids and the sizes of the items from an `.idx`.

    Raises:
        DataError: It is not such a file, or not a whole one.
    """
    with path.open("rb") as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size or head[: len(MAGIC)] != MAGIC:
        raise DataError("this is not a fairseq index (its magic differs)", file=path, remedy=REMEDY)
    _, version, code, count = HEADER.unpack(head)
    if version != VERSION or code not in CODES:
        problem = f"version {version} with type code {code} is unknown (version {VERSION} and codes {sorted(CODES)} are known)"
        raise DataError(problem, file=path, remedy=REMEDY)
    expected, size = HEADER.size + 12 * count, path.stat().st_size
    if size != expected:
        problem = f"it has {size} bytes, and {expected} are needed for its {count} items"
        raise DataError(problem, file=path, remedy=REMEDY)
    dtype = np.dtype(CODES[code])
    sizes: I32 = np.fromfile(path, dtype="<i4", count=count, offset=HEADER.size)
    pointers = np.fromfile(path, dtype="<i8", count=count, offset=HEADER.size + 4 * count)
    if (sizes < 0).any() or not np.array_equal(pointers, _offsets(sizes)[:-1] * dtype.itemsize):
        raise DataError("its byte offsets do not follow from its sizes", file=path, remedy=REMEDY)
    return dtype, sizes


def map_tokens(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Map a `.bin` read-only into memory, [tokens] (an empty file cannot be mapped: it gives an empty array)."""
    if not path.stat().st_size:
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def _npy_header(count: int) -> bytes:
    """Give the header of a `.npy` file of so many bytes; it has the same length for any count."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count,)})
    return file.getvalue()


def _offsets(sizes: I32) -> I64:
    return np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))


def decode(reader: ShardReader, items: Sequence[int]) -> str:
    """Decode consecutive items of one document to text, its white-space runs as single blanks."""
    ids = np.concatenate([reader[item] for item in items])
    return reader.tokenizer.decode(ids[ids != reader.ids.eos].tolist())
