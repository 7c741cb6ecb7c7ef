"""What a stranger's text is encoded in: UTF-8, UTF-16 or UTF-32 (known by their marks, or by zeros), else Windows' cp1252.

UTF-8 and cp1252 are told apart line by line, since exports are glued together from several systems. A line with letters in UTF-8 and other
bytes beside them is damaged, as is one with bytes that cp1252 does not have: nothing is filled with U+FFFD.
"""

import codecs
import io
from collections.abc import Iterable, Iterator
from typing import IO

from biomlm.inputs.xml import MOST, blocks

CP1252 = "cp1252"
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
TOO_LONG = "too long"
HEAD = 256  # bytes by which an encoding without a mark is known


class Foreign(str):
    """A line that was read as cp1252."""

    __slots__ = ()


class Unreadable(str):
    """A line whose bytes belong to no encoding that is known here; what is no UTF-8 in it stands as surrogates."""

    __slots__ = ()


class Problem(str):
    """What is wrong with the stream, in place of a line."""

    __slots__ = ()


def decoded(data: bytes) -> str:
    """Decode a text: a plain `str` if its bytes are UTF-8, else `Foreign` or `Unreadable`."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        pass
    if data.decode("utf-8", "ignore").isascii():
        try:
            return Foreign(data.decode(CP1252))
        except UnicodeDecodeError:
            pass
    return Unreadable(data.decode("utf-8", "surrogateescape"))


def utf8_blocks(stream: IO[bytes]) -> Iterator[bytes | str]:
    """Read a stream block by block as UTF-8 without a mark, whatever it is encoded in.

    Yields:
        Bytes, which are the stream's own where they are no UTF-16 or UTF-32; last, how it breaks off, as a string.
    """
    raw_blocks = blocks(stream)
    head, ended = b"", ""
    while len(head) < HEAD and not ended:
        block = next(raw_blocks, None)
        if block is None:
            break
        if isinstance(block, str):
            ended = block
        else:
            head += block
    mark, encoding = next(((mark, name) for mark, name in MARKS if head.startswith(mark)), (b"", _unmarked(head)))
    rest: Iterable[bytes | str] = (
        item for part in ((head[len(mark) :],), (ended,) if ended else raw_blocks) for item in part
    )
    return iter(rest) if encoding == "utf-8" else _transcoded(rest, encoding)


def _unmarked(head: bytes) -> str:
    """Return the encoding of a stream without a mark: UTF-16 is known by the zeros beside its ASCII letters."""
    even, odd = head[:HEAD:2].count(0), head[1:HEAD:2].count(0)
    few = len(head[:HEAD]) // 8
    return "utf-16-le" if odd > few >= 8 * even else "utf-16-be" if even > few >= 8 * odd else "utf-8"


def _transcoded(raw_blocks: Iterable[bytes | str], encoding: str) -> Iterator[bytes | str]:
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    try:
        for block in raw_blocks:
            if isinstance(block, str):
                yield block
                return
            yield decoder.decode(block).encode("utf-8", "ignore")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        yield f"damaged {encoding[:6].upper()}"


def text_lines(stream: IO[bytes]) -> Iterator[str]:
    """Yield every line, with its line break, as `decoded` reads it; a `Problem` where one is too long or the stream breaks off."""
    for chunk in chunks(stream):
        if isinstance(chunk, str):
            yield chunk
            continue
        try:
            text = chunk.decode()
        except UnicodeDecodeError:
            yield from map(decoded, io.BytesIO(chunk))
        else:
            yield from io.StringIO(text, newline="\n")


def chunks(stream: IO[bytes]) -> Iterator[bytes | Problem]:
    """Yield whole lines, many at a time, as UTF-8; a `Problem` where a line is too long, and where the stream breaks off."""
    rest, skipping = b"", False
    for block in utf8_blocks(stream):
        if isinstance(block, str):
            if rest:
                yield rest
            yield Problem(block)
            return
        start = block.find(b"\n") + 1 if skipping else 0
        cut = block.rfind(b"\n") + 1
        if skipping and not cut:
            continue
        skipping = False
        if cut:
            yield rest + block[start:cut]
            rest = block[cut:]
        else:
            rest += block
        if len(rest) > MOST:
            yield Problem(TOO_LONG)
            rest, skipping = b"", True
    if rest:
        yield rest
