"""Opening files: input that is plain, gzip or xz, local or remote through fsspec, never unpacked to disk; output in gzip."""

import gzip
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

SUFFIXES: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}


@contextmanager
def opened(folder: Any, filepath: str) -> Iterator[IO[bytes]]:
    """Open a file of a datatrove `DataFolder` for reading, decompressed by its suffix.

    Args:
        folder: A `datatrove.io.DataFolder`.
        filepath: Path inside it.
    """
    with folder.open(filepath, "rb") as raw:
        for suffix, open_with in SUFFIXES.items():
            if filepath.endswith(suffix):
                with open_with(raw, "rb") as stream:
                    yield cast(IO[bytes], stream)
                return
        yield raw


@contextmanager
def compressed(path: Path, level: int) -> Iterator[IO[bytes]]:
    """Open a gzip file for writing whose bytes depend on its content alone: it stores neither name nor time."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", level, raw, mtime=0) as file:
        yield cast(IO[bytes], file)
