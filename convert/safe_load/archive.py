"""Unpack a published `.tar.gz` into a scratch folder that is removed when the program ends.

An archive from outside may try to write elsewhere, to link elsewhere, or to unpack to more than the disk holds: only plain
files and folders below the scratch folder are taken, and a member's size is counted while it is written.

`inputs.tar` reads packages of articles under the opposite rule, and so is not used here: it writes nothing, passes over whatever is
no plain file and goes on behind damage, where half a model is none and a link in its archive is a reason to refuse it all.
"""

import io
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from biomlm.core.errors import CheckpointError, UnsafeFileError, kind
from biomlm.core.files import mark_used, sweep_abandoned
from biomlm.core.progress import progress
from biomlm.inputs.gzip import ERRORS as GUNZIP_ERRORS
from biomlm.inputs.gzip import Gunzip

GZIP = b"\x1f\x8b"
MOST_RATIO = 20  # weights hardly compress; a bomb does
MOST_SMALL = 1 << 26  # bytes that even a tiny archive may unpack to
BLOCK = 1 << 20
LONGEST_NAME = 200  # bytes: file systems take 255 for a part of a path

PREFIX = "biomlm-scratch-"


class _Scratch(tempfile.TemporaryDirectory[str]):
    """A folder that other processes do not take for one that was left behind, as long as this one lives."""

    def __init__(self) -> None:
        super().__init__(prefix=PREFIX)
        self.mark = mark_used(Path(self.name))

    def cleanup(self) -> None:
        """Remove it."""
        super().cleanup()
        os.close(self.mark)


_scratch: list[_Scratch] = []


def scratch() -> Path:
    """Make an empty folder, removed when the program ends; if that is killed, by the next one."""
    if not _scratch:
        sweep_abandoned(Path(tempfile.gettempdir()), re.escape(PREFIX) + r"\w+")
    _scratch.append(_Scratch())
    return Path(_scratch[-1].name)


def detect(path: Path) -> bool:
    """Return whether this is a gzip file or a plain tar archive."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    return head.startswith(GZIP) or head[257:262] == b"ustar"


def unpack(path: Path) -> Path:
    """Unpack an archive; return the scratch folder with its content.

    Raises:
        UnsafeFileError: A member climbs out, is a link or a device, or the content is out of all proportion.
        CheckpointError: It is truncated or damaged.
    """
    folder = scratch()
    try:
        for name, content in members(path):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                while block := content.read(BLOCK):
                    out.write(block)
    except (tarfile.TarError, *GUNZIP_ERRORS, FileExistsError, NotADirectoryError) as error:
        raise CheckpointError(
            f"this archive is damaged or truncated ({kind(error)})",
            file=path,
            remedy="Get it again and compare its hash.",
        ) from None
    return folder


class _Bounded(io.RawIOBase):
    """A stream that counts what is read from it, and refuses more than a bound."""

    def __init__(self, stream: IO[bytes], most: int, path: Path):
        self.stream, self.left, self.path = stream, most, path

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        block = self.stream.read(BLOCK if size < 0 else size)
        self.left -= len(block)
        if self.left < 0:
            raise UnsafeFileError(
                f"this archive unpacks to over {MOST_RATIO} times its size",
                file=self.path,
                remedy="Unpack it yourself, if you trust it, and give the folder.",
            )
        return block


def members(path: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """Yield relative name and content of every file in an archive, in its order; each must be read before the next."""
    size = path.stat().st_size
    with path.open("rb") as raw, progress("unpack", size, "B") as bar:
        zipped = raw.read(2) == GZIP
        raw.seek(0)
        stream = cast(IO[bytes], Gunzip(fileobj=raw)) if zipped else raw
        bounded = cast(IO[bytes], _Bounded(stream, max(MOST_SMALL, MOST_RATIO * size), path))
        seen = 0
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for member in archive:
                name = _safe(member, path)
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield name, content
                bar.advance(raw.tell() - seen, name.name)
                seen = raw.tell()


def _safe(member: tarfile.TarInfo, path: Path) -> PurePosixPath:
    name = PurePosixPath(member.name)
    climbs = name.is_absolute() or ".." in name.parts or not set("\\\0").isdisjoint(member.name)
    odd = member.issparse() or len(member.name.encode()) > LONGEST_NAME  # a sparse member writes bytes it does not hold
    if climbs or odd or not (member.isfile() or member.isdir()):
        what = "would be written outside its folder" if climbs else "is a link, a device or a sparse file"
        raise UnsafeFileError(
            f"the member {member.name[:80]!r} {what}; nothing was unpacked to there",
            file=path,
            remedy="Do not unpack it with other tools either; get the model from elsewhere.",
        )
    return name
