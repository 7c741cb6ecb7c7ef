"""XML from strangers, one record at a time: bytes are cut at the record's tags and each record is parsed alone.

So memory does not grow with the file, one damaged record costs only itself, and a document type declaration is never seen by the parser:
nothing can be expanded or fetched. Character entities that the DTDs of PubMed and JATS would define are taken from HTML's table.
"""

import re
import zlib
from collections.abc import Iterator
from html.entities import html5
from pathlib import Path
from typing import IO, NamedTuple, cast

from lxml import etree

from biomlm.core.errors import DataError, UnsafeFileError
from biomlm.inputs.search import find
from biomlm.inputs.streams import BLOCK, read_text

MOST = 64 << 20  # bytes in one record; anything longer is damage

ENTITY = re.compile(rb"&([A-Za-z][A-Za-z0-9]*);")
XML_ENTITIES = {b"amp", b"lt", b"gt", b"quot", b"apos"}
PREFIX = re.compile(rb"""\sxmlns:([A-Za-z_][\w.-]*)\s*=\s*("[^"<]*"|'[^'<]*')""")
USED = re.compile(rb"[</\s]([A-Za-z_][\w.-]*):[A-Za-z_]")
USUAL = {  # prefixes that document types declare, which are never read
    b"xlink": b'"http://www.w3.org/1999/xlink"',
    b"mml": b'"http://www.w3.org/1998/Math/MathML"',
    b"xsi": b'"http://www.w3.org/2001/XMLSchema-instance"',
    b"ali": b'"http://www.niso.org/schemas/ali/1.0/"',
    b"oasis": b'"http://docs.oasis-open.org/ns/oasis-exchange/table"',
}
ROOT = re.compile(rb"<[A-Za-z_]")
RECORD = re.compile(rb"<[A-Za-z_][\w.-]*")
DECLARED = re.compile(rb"""<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


class Piece(NamedTuple):
    """A stretch of a file.

    Args:
        at: Byte offset of its start in the decompressed file.
        data: The record's bytes, from its start tag to its end tag; empty if it is damaged.
        tag: The record's element.
        problem: What is wrong with it, else empty.
    """

    at: int
    data: bytes
    tag: str = ""
    problem: str = ""


def parser() -> etree.XMLParser:
    """Make a parser that touches neither network nor DTD, expands nothing, and keeps libxml2's limits."""
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True,
        collect_ids=False,
    )  # fmt: skip


def parse(
    data: bytes, parser: etree.XMLParser, encoding: str = "utf-8", prefixes: dict[bytes, bytes] | None = None
) -> etree._Element | None:
    """Parse one record that has no document type declaration; return None if it is damaged.

    Args:
        data: Bytes of the element.
        parser: From `parser()`.
        encoding: What the file declares; used when the bytes are not UTF-8.
        prefixes: Namespaces that are declared outside the record, from `Cutter.prefixes`.
    """
    try:
        return etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError):
        mended = _declared(_mended(data, encoding), prefixes or {})
    if mended == data:
        return None
    try:
        return etree.fromstring(mended, parser)
    except (etree.XMLSyntaxError, ValueError):
        return None


def read_xml(path: Path) -> etree._Element:
    """Read a whole, small XML file and return its root.

    Raises:
        UnsafeFileError: It declares entities, which could expand without bound or name other files.
        DataError: It is not well-formed, or no UTF-8.
    """
    text = read_text(path)
    if "<!ENTITY" in text:
        raise UnsafeFileError("this XML declares entities", file=path, remedy="Corpora need none; get the file again.")
    # The text is UTF-8 by now, whatever its declaration says.
    strict = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, encoding="utf-8")
    try:
        return etree.fromstring(text.encode(), strict)
    except etree.XMLSyntaxError as error:
        problem = "this is not well-formed XML"
        raise DataError(problem, file=path, record=f"line {error.lineno}", remedy="Get the file again.") from None


def _mended(data: bytes, encoding: str) -> bytes:
    """Return the record as UTF-8 with HTML's named characters written out."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        try:
            data = data.decode(encoding if encoding != "utf-8" else "cp1252").encode("utf-8")
        except (UnicodeDecodeError, LookupError):
            return data
    return ENTITY.sub(_character, data)


def _declared(data: bytes, prefixes: dict[bytes, bytes]) -> bytes:
    """Return the record with the prefixes declared that it uses and does not declare itself."""
    known = {**USUAL, **prefixes}
    missing = (set(USED.findall(data)) & known.keys()) - {name for name, _ in PREFIX.findall(data)}
    if not missing or (name := RECORD.match(data)) is None:
        return data
    declarations = b"".join(b" xmlns:%b=%b" % (prefix, known[prefix]) for prefix in sorted(missing))
    return data[: name.end()] + declarations + data[name.end() :]


def without_namespace(root: etree._Element) -> etree._Element:
    """Take the namespace of the root from all its elements: names of a default namespace become plain."""
    namespace = etree.QName(root).namespace
    if namespace:
        for element in root.iter(f"{{{namespace}}}*"):
            element.tag = etree.QName(element).localname
    return root


def _character(match: re.Match[bytes]) -> bytes:
    name = match[1]
    character = html5.get(f"{name.decode()};")
    return match[0] if name in XML_ENTITIES or character is None else character.encode("utf-8")


def declared_encoding(head: bytes) -> str:
    """Return the encoding that an XML declaration names, `utf-8` if none."""
    match = DECLARED.match(head.lstrip())
    return match[1].decode("ascii").lower() if match else "utf-8"


def blocks(stream: IO[bytes]) -> Iterator[bytes | str]:
    """Read a stream block by block; where it breaks off (a truncated or damaged gzip), a last item says how."""
    while True:
        try:
            block = stream.read(BLOCK)
        except (EOFError, zlib.error, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            yield "truncated" if isinstance(error, EOFError) else "damaged compression"
            return
        if not block:
            return
        yield block


class Cutter:
    """Cut the records of a stream.

    Args:
        tags: Names of record elements. Where one can hold another, the outer comes first.
    """

    def __init__(self, *tags: str):
        names = b"|".join(tag.encode() for tag in tags)
        self.start = re.compile(rb"<(" + names + rb")(?=[\s>])")
        self.orphan = re.compile(rb"</(" + names + rb")\s*>")
        self.overlap = max(map(len, tags)) + 16
        self.encoding = "utf-8"
        self.prefixes: dict[bytes, bytes] = {}  # that the file declares before its first record

    def cut(self, stream: IO[bytes]) -> Iterator[Piece]:
        """Yield every record of `stream` in order, damaged ones as a `Piece` with a problem."""
        self.encoding, self.prefixes = "utf-8", {}
        buffer, base, broken, rooted = b"", 0, "", False
        for block in blocks(stream):
            if isinstance(block, str):
                broken = block
                break
            if not base and not buffer:
                self.encoding = declared_encoding(block[:200])
                first = self.start.search(block)
                head = block[: first.start() if first else len(block)]
                rooted, self.prefixes = bool(ROOT.search(head)), dict(PREFIX.findall(head))
            buffer += block
            used = 0
            for piece, end in self._whole(buffer, base):
                yield piece
                used = end
            buffer, base = buffer[used:], base + used
            if len(buffer) > MOST:
                yield Piece(base, b"", problem="too long")
                buffer, base = buffer[-self.overlap :], base + len(buffer) - self.overlap
        yield from self._rest(buffer, base, broken, rooted)

    def _whole(self, buffer: bytes, base: int) -> Iterator[tuple[Piece, int]]:
        """Yield every record that ends inside `buffer`, with how much of the buffer is used up by then."""
        at = 0
        while True:
            start = self.start.search(buffer, at)
            if start is None:
                keep = max(at, len(buffer) - self.overlap)
                if self.orphan.search(buffer, at, keep):
                    yield Piece(base + at, b"", problem="a record without its start"), keep
                return
            if self.orphan.search(buffer, at, start.start()) and not self._tail(buffer[at : start.start()]):
                yield Piece(base + at, b"", problem="a record without its start"), start.start()
            tag, begin = start[1], start.start()
            end = self._end(tag, buffer, start.end())
            again = self._again(tag, buffer, start.end(), len(buffer) if end < 0 else end)
            if again >= 0:
                at = again
                yield Piece(base + begin, b"", tag.decode(), "a record without its end"), at
            elif end < 0:
                return
            else:
                at = end
                yield Piece(base + begin, buffer[begin:at], tag.decode()), at

    def _end(self, tag: bytes, buffer: bytes, at: int) -> int:
        """Return where the record's end tag ends, -1 if that is not in the buffer."""
        plain = b"</" + tag + b">"
        end = find(buffer, plain, at)
        if end >= 0:
            return end + len(plain)
        match = re.compile(rb"</" + tag + rb"\s*>").search(buffer, at)
        return match.end() if match else -1

    def _again(self, tag: bytes, buffer: bytes, at: int, stop: int) -> int:
        """Return where the same element starts once more before `stop`, -1 if it does not."""
        opening = b"<" + tag
        again = find(buffer, opening, at, stop)
        while again >= 0 and buffer[again + len(opening) : again + len(opening) + 1] not in (
            b">",
            b" ",
            b"\n",
            b"\t",
            b"\r",
        ):
            again = find(buffer, opening, again + 1, stop)
        return again

    def _tail(self, gap: bytes) -> bool:
        """Return whether a gap is what an outer record leaves behind when only its start tag was lost and its inner record was read."""
        return b"</PubmedData" in gap and b"<PubmedData" in gap

    def _rest(self, buffer: bytes, base: int, broken: str, rooted: bool) -> Iterator[Piece]:
        """Yield what is left at the end of the stream: an unfinished record, the place where the stream broke off, or nothing."""
        unfinished = self.start.search(buffer)
        if broken:
            yield Piece(base + (unfinished.start() if unfinished else len(buffer)), b"", problem=broken)
        elif unfinished:
            yield Piece(base + unfinished.start(), b"", unfinished[1].decode(), "a record without its end")
        elif self.orphan.search(buffer) and not self._tail(buffer):
            yield Piece(base, b"", problem="a record without its start")
        elif rooted and b"</" not in buffer:
            yield Piece(base + len(buffer), b"", problem="the file's root is not closed, so records may be missing")


def text_of(element: etree._Element) -> str:
    """Return all text inside an element, without markup."""
    if not len(element):
        return element.text or ""
    return "".join(cast(Iterator[str], element.itertext()))
