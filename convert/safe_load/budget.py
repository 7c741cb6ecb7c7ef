"""How much memory and work a pickle may ask for: a few thousand bytes of instructions can repeat each other to gigabytes."""

from pathlib import Path
from typing import IO, Any

from biomlm.core.errors import UnsafeFileError

# What is made of a pickle may take so many times the file, and so many bytes more.
MOST_RATIO, MOST_SMALL = 2, 1 << 27
# Bytes of a place in a list, of one in a dictionary or set, of an object of ours or a tensor.
SLOT, ENTRY, OBJECT = 8, 100, 400
LONGEST = 1 << 26  # bytes of one text or number in it


class Budget:
    """What is left for the objects of one pickle.

    Args:
        file: The file that holds it.
    """

    def __init__(self, file: Path):
        self.file, self.left = file, MOST_RATIO * file.stat().st_size + MOST_SMALL

    def charge(self, size: int) -> None:
        """Count memory that is taken; nothing is given back, so that the work is bounded as well.

        Raises:
            UnsafeFileError: It is out of all proportion to the file.
        """
        self.left -= size
        if self.left < 0:
            raise UnsafeFileError(
                f"reading it would take over {MOST_RATIO} times its size and {MOST_SMALL >> 20} MB of memory",
                file=self.file,
                remedy="It was made to do that; get the model from elsewhere.",
            )

    def charge_made(self, value: Any) -> None:
        """Count an object and the places in it, but not what stands there."""
        sizes: dict[type[Any], int] = {
            dict: ENTRY,
            set: ENTRY,
            frozenset: ENTRY,
            list: SLOT,
            tuple: SLOT,
            str: 4,
            bytes: 1,
        }
        per_item = sizes.get(type(value), 0)
        self.charge(OBJECT + per_item * (len(value) if per_item else 0))


class Program:
    """The bytes of a pickle, of which no text or number may be longer than any checkpoint's."""

    def __init__(self, stream: IO[bytes]):
        self.stream, self.tell = stream, stream.tell

    def read(self, size: int) -> bytes:
        """Read so many bytes."""
        if size > LONGEST:
            raise ValueError("a text or number of over 64 MB")
        return self.stream.read(size)

    def readline(self) -> bytes:
        """Read up to the end of a line."""
        return self.stream.readline(LONGEST)
