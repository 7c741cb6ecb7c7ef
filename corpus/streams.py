"""Opening files: input that is plain, gzip or xz, local or remote through fsspec, never unpacked to disk; output in gzip."""

import gzip
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

COMPRESSIONS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}


def bare_name(filepath: str) -> str:
    """A file's name in lower case, without the suffix of its compression."""
    name = filepath.lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return name


@contextmanager
def opened(reader: Any, filepath: str) -> Iterator[IO[bytes]]:
    """Open one of a reader's files, decompressed by its suffix.

    Args:
        reader: A datatrove `BaseDiskReader`; while the file is open, its `raw` is the stored file, whose position is the progress.
        filepath: Path inside the reader's folder.
    """
    with reader.data_folder.open(filepath, "rb") as raw:
        reader.raw = raw
        for suffix, open_with in COMPRESSIONS.items():
            if filepath.lower().endswith(suffix):
                with open_with(raw, "rb") as stream:
                    yield cast(IO[bytes], stream)
                return
        yield raw


@contextmanager
def compressed(path: Path, level: int) -> Iterator[IO[bytes]]:
    """Open a gzip file for writing whose bytes depend on its content alone: it stores neither name nor time."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", level, raw, mtime=0) as file:
        yield cast(IO[bytes], file)
