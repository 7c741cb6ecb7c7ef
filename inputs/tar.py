"""Tar packages as they stream by: members are read in place, never written anywhere, so their names cannot do harm.

`tarfile` takes a damaged header in mid-file for the end of the package and says nothing. Here it is reported, and reading goes on at the
next block that is a header. A model's archive, which must be whole and is unpacked to disk, is `convert.safe_load.archive`'s.
"""

import tarfile
from collections.abc import Iterator
from typing import IO

BLOCK = tarfile.BLOCKSIZE
LONG_NAMES, FILES, PAX = (b"L",), (b"0", b"\0"), (b"x",)
LONGEST_NAME = 1 << 16  # bytes


class Member:
    """Read the content of one file in a package, for as long as the package stands there.

    Args:
        stream: The package.
        size: Bytes of content.
    """

    def __init__(self, stream: IO[bytes], size: int):
        self.stream, self.left, self.padding = stream, size, -size % BLOCK

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; empty at the end.

        Raises:
            EOFError: The package ends before the file does.
        """
        if not self.left:
            return b""
        data = self.stream.read(min(size, self.left))
        if not data:
            raise EOFError("truncated")
        self.left -= len(data)
        return data

    def skip(self) -> None:
        """Read what is left, and the padding behind it."""
        while self.read(1 << 20):
            pass
        exactly(self.stream, self.padding)
        self.padding = 0


def members(stream: IO[bytes]) -> Iterator[tuple[str, Member | None]]:
    """Yield every regular file of a package.

    Yields:
        `(name, content)`; or where a header is damaged `(name of the file before, None)`.

    Raises:
        EOFError: The package breaks off.
    """
    name, long_name, lost, empty = "its start", "", False, 0
    while block := exactly(stream, BLOCK):
        if not any(block):
            empty += 1
            if empty == 2:  # the end; what follows is padding
                return
            continue
        empty = 0
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            info = None
        if info is None or info.size < 0:
            if not lost:
                yield name, None
            lost = True
            continue
        lost, content = False, Member(stream, info.size if info.type in (*FILES, *LONG_NAMES, *PAX) or info.size else 0)
        if info.type in (*LONG_NAMES, *PAX) and info.size < LONGEST_NAME:
            long_name = _long_name(exactly(stream, info.size), info.type) or long_name
            content.left = 0
        elif info.type in FILES:
            name, long_name = long_name or info.name, ""
            yield name, content
        content.skip()
    if not empty:
        raise EOFError("truncated")


def exactly(stream: IO[bytes], size: int) -> bytes:
    """Read `size` bytes; none at the end of the stream.

    Raises:
        EOFError: It ends in between.
    """
    data = b""
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            if data:
                raise EOFError("truncated")
            return b""
        data += more
    return data


def _long_name(data: bytes, kind: bytes) -> str:
    """Return the name in a GNU long-name entry, or the `path` record of a pax header."""
    if kind in LONG_NAMES:
        return data.rstrip(b"\0").decode("utf-8", "replace")
    for record in data.split(b"\n"):
        _, separator, path = record.partition(b" path=")
        if separator:
            return path.decode("utf-8", "replace")
    return ""
