"""Opening files: input that is plain, gzip or xz, local or remote through fsspec, never unpacked to disk; output in gzip."""

import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from biomlm.core.errors import DataError, kind
from biomlm.inputs.gzip import ERRORS, Gunzip, Gzip, fast_zlib

BLOCK = 1 << 20  # bytes read at a time
STORED = 1 << 17  # bytes of the stored file fed to the decompressor at a time
WRITTEN = 1 << 17  # bytes given to the compressor at a time
SALVAGED = 1 << 8  # and again in these, when it turns out to be damaged


def _inflate() -> Any:
    return fast_zlib.decompressobj(wbits=31)  # 31: a gzip header and trailer, whose check sum is verified


COMPRESSIONS: dict[str, Callable[[], Any]] = {".gz": _inflate, ".xz": lzma.LZMADecompressor}
PACKERS = {".gz": "gzip", ".xz": "xz"}
LINES: dict[str, Callable[[BinaryIO], Any]] = {".gz": lambda file: Gunzip(fileobj=file), ".xz": lzma.LZMAFile}
SHORT = {".tgz": ".tar.gz", ".txz": ".tar.xz"}
DAMAGE = (zlib.error, fast_zlib.error, lzma.LZMAError)


class Decompressed:
    """Read a compressed stream up to where it breaks off, and raise only then.

    `gzip.GzipFile` throws away up to a whole block before the damage. Output is bounded, so a file that inflates a thousandfold takes no
    more memory than another.

    Args:
        raw: The stored file; it can be read again from its start.
        decompressor: Makes a decompressor with the interface of `lzma.LZMADecompressor` or `zlib.decompressobj`.
    """

    def __init__(self, raw: IO[bytes], decompressor: Callable[[], Any]):
        self.raw, self.make = raw, decompressor
        self.inner = decompressor()
        self.waiting = self.salvaged = b""
        self.begun = False
        self.position = 0  # bytes given out
        self.problem: Exception | None = None

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes and at least one; empty at the end.

        Raises:
            EOFError: The stream is truncated.
            zlib.error: It is damaged.
        """
        data = self._read(size)
        self.position += len(data)
        return data

    def _read(self, size: int) -> bytes:
        while True:
            if self.salvaged:
                data, self.salvaged = self.salvaged[:size], self.salvaged[size:]
                return data
            if self.problem is not None:
                raise self.problem
            if self.inner.eof and not self._next_member():
                return b""
            if not self.waiting and (self._needs_input() or not self.begun):
                self.waiting = self.raw.read(STORED)
                if not self.waiting:
                    return self._ended(size)
            self.begun = True
            if data := self._decompress(size):
                return data

    def _ended(self, size: int) -> bytes:
        """Return what the decompressor still holds at the end of the stored file, then raise if that end came too soon."""
        if not self.begun:
            return b""
        if held := bytes(self.inner.decompress(b"", size)):
            return held
        if not self.inner.eof:
            self.problem = EOFError("truncated")
            raise self.problem
        return b""

    def _needs_input(self) -> bool:
        return bool(getattr(self.inner, "needs_input", True))

    def _decompress(self, size: int) -> bytes:
        data, self.waiting = self.waiting, b""
        before = self.inner.copy() if hasattr(self.inner, "copy") else None
        try:
            output: bytes = self.inner.decompress(data, size)
        except DAMAGE as error:
            if self.make is _inflate and fast_zlib is not zlib:
                self._again()
            else:
                self.problem = zlib.error(str(error))
                self._salvage(before, data)
            return b""
        self.waiting = getattr(self.inner, "unconsumed_tail", b"")
        return output

    def _again(self) -> None:
        """Read from the start with zlib up to `position`: unlike ISA-L, it gives all that stands before the damage."""
        self.raw.seek(0)
        end, self.position = self.position, 0
        self.make, self.waiting, self.begun = partial(zlib.decompressobj, wbits=31), b"", False
        self.inner = self.make()
        while self.position < end and self.read(min(BLOCK, end - self.position)):
            pass

    def _salvage(self, inner: Any, data: bytes) -> None:
        """Keep what the damaged stretch yields up to the damage, in small steps; no more than two blocks of it."""
        if inner is None:
            return
        parts = []
        try:
            for start in range(0, len(data), SALVAGED):
                parts.append(inner.decompress(data[start : start + SALVAGED], BLOCK))
        except zlib.error:
            pass
        self.salvaged = b"".join(parts)[: 2 * BLOCK]

    def _next_member(self) -> bool:
        """Go on with another member behind the one that has ended; zeros behind the last one are padding."""
        rest = (self.inner.unused_data or self.raw.read(STORED)).lstrip(b"\0")
        if not rest:
            return False
        self.inner, self.waiting, self.begun = self.make(), rest, True
        return True


def bare_name(filepath: str) -> str:
    """Return a file's name in lower case, without the suffix of its compression: the one rule for what kind a file is of."""
    return _parted(filepath)[0]


def compression(filepath: str) -> str:
    """Return the suffix of a file's compression in lower case; empty if it has none."""
    return _parted(filepath)[1]


def _parted(filepath: str) -> tuple[str, str]:
    name = filepath.lower()
    for short, long in SHORT.items():
        name = name.removesuffix(short) + (long if name.endswith(short) else "")
    suffix = next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), "")
    return name.removesuffix(suffix), suffix


@contextmanager
def opened(reader: Any, filepath: str) -> Iterator[IO[bytes]]:
    """Open one of a reader's files, decompressed by its suffix.

    Args:
        reader: A datatrove `BaseDiskReader`; while the file is open, its `raw` is the stored file, whose position is the progress.
        filepath: Path inside the reader's folder.
    """
    with reader.data_folder.open(filepath, "rb") as raw:
        reader.raw = raw
        suffix = compression(filepath)
        yield raw if not suffix else cast(IO[bytes], Decompressed(raw, COMPRESSIONS[suffix]))


def open_lines(file: BinaryIO, most: int = -1, remedy: str = "Get the file again.") -> Iterator[bytes]:
    """Yield the lines of an open file, unpacked if its name ends in `.gz` or `.xz`.

    Args:
        file: The stored file, whose position is the progress.
        most: Bytes, if lines that have more are to come in pieces of so many.
        remedy: What to do with a damaged file.

    Raises:
        DataError: The compressed data end too soon or are damaged.
    """
    suffix, number = compression(file.name), 0
    try:
        with ExitStack() as stack:
            unpacked = cast(IO[bytes], stack.enter_context(LINES[suffix](file))) if suffix else file
            while line := unpacked.readline(most):
                number += line.endswith(b"\n")
                yield line
    except (*ERRORS, lzma.LZMAError) as error:
        packer = PACKERS[suffix]
        problem = (
            f"this {packer} file is damaged in line {number + 1}: the {packer} data ends or breaks ({kind(error)})"
        )
        raise DataError(problem, file=file.name, remedy=remedy) from None


def read_text(path: Path) -> str:
    """Read a whole UTF-8 file, unpacked if its name ends in `.gz` or `.xz`.

    Raises:
        DataError: It cannot be unpacked or is no UTF-8.
    """
    inflate = COMPRESSIONS.get(compression(path.name))
    data = path.read_bytes()
    if inflate is not None:
        stream, parts = Decompressed(io.BytesIO(data), inflate), []
        try:
            while part := stream.read(BLOCK):
                parts.append(part)
        except (EOFError, zlib.error):
            problem = f"this {PACKERS[compression(path.name)]} file is damaged or cut off"
            raise DataError(problem, file=path, remedy="Get the file again.") from None
        data = b"".join(parts)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            "this is not UTF-8", file=path, record=f"line {line}", remedy="Convert the file to UTF-8."
        ) from None


@contextmanager
def compressed(path: Path, level: int) -> Iterator[IO[bytes]]:
    """Open a gzip file for writing whose bytes depend on its content alone: it stores neither name nor time."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", level, raw, mtime=0) as file, _in_blocks(file) as writer:
        yield writer


@contextmanager
def scratch(path: Path) -> Iterator[IO[bytes]]:
    """Open a gzip file for writing that is read once and removed, as fast as can be: its bytes depend on what is installed."""
    with path.open("wb") as raw, Gzip("", "wb", 1, raw, mtime=0) as file, _in_blocks(file) as writer:
        yield writer


def _in_blocks(file: gzip.GzipFile) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedWriter(cast(io.RawIOBase, file), WRITTEN))
