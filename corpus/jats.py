"""PMC: JATS articles, alone or in tar packages → one document an article.

Formats: JATS 1.x and NLM 2/3 (https://jats.nlm.nih.gov/archiving/). The text is the title, every abstract, the body, appendices and
floating captions, in reading order, each paragraph under the path of its section titles. Left out: reference lists, footnotes, author
notes, acknowledgements, table cells (by option), and citation call-outs.
"""

import re
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any, cast

from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseDiskReader
from lxml import etree

from biolm.core.errors import ConfigError
from biolm.corpus.dates import date, earliest
from biolm.corpus.document import build, damaged
from biolm.corpus.jats_body import body_sections, selected_sections
from biolm.corpus.packages import members
from biolm.corpus.records import Cutter, parse, parser, text_of
from biolm.corpus.streams import opened

Element = etree._Element

ARTICLES = (".xml", ".nxml")
PACKAGES = (".tar", ".tar.gz", ".tgz", ".tar.xz")
HREF = "{http://www.w3.org/1999/xlink}href"
CREATIVE = re.compile(r"creativecommons\.org/(licenses|publicdomain)/([a-z-]+)(?:/(\d\.\d))?", re.I)
NAMED = re.compile(r"\bcc[\s-]?(by(?:[\s-](?:nc|nd|sa))*|0|zero)(?:[\s-]?v?(\d\.\d))?\b", re.I)
PMID_TYPES, PMCID_TYPES = {"pmid", "pubmed"}, {"pmc", "pmcid"}


class JatsReader(BaseDiskReader):  # type: ignore[misc]
    """Reads JATS as a datatrove reader; see `BaseDiskReader` for the other arguments.

    Args:
        data_folder: Where the files are.
        tables: Include the cells of tables, a row as a block.
        xpath: Take only what this selects, such as `.//abstract | .//fig` (as EMBO's BioLang does), each match as a section.

    Raises:
        ConfigError: The XPath cannot be read.
    """

    name = "JATS"

    def __init__(self, data_folder: Any, tables: bool = False, xpath: str = "", **kwargs: Any):
        super().__init__(data_folder, **kwargs)
        self.tables, self.xpath = tables, xpath
        try:
            etree.XPath(xpath or ".")
        except etree.XPathSyntaxError:
            raise ConfigError(f"`{xpath}` is not an XPath", remedy="Give one such as './/abstract | .//fig'.") from None

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Every article of one `.xml`, `.nxml` or tar file, compressed or not."""
        with opened(self, filepath) as stream:
            if filepath.endswith(PACKAGES):
                yield from self._package(stream, filepath)
            else:
                yield from self._articles(stream, filepath)

    def _package(self, stream: IO[bytes], filepath: str) -> Iterator[Document]:
        last, found = "its start", False
        try:
            for last, member in members(stream):
                if member is None:
                    yield damaged("pmc", filepath, f"after {last}, damaged package")
                elif last.endswith(ARTICLES):
                    yield from self._articles(cast(IO[bytes], member), f"{filepath}/{last}")
                found = True
        except (EOFError, zlib.error):
            yield damaged("pmc", filepath, f"after {last}, truncated or damaged package")
        else:
            if not found:
                yield damaged("pmc", filepath, "no article in it")

    def _articles(self, stream: IO[bytes], file: str) -> Iterator[Document]:
        cutter, xml, number = Cutter("article"), parser(), 0
        for number, piece in enumerate(cutter.cut(stream), start=1):
            root = None if piece.problem else parse(piece.data, xml, cutter.encoding)
            if root is None:
                yield damaged("pmc", file, f"byte {piece.at}, {piece.problem or 'ill-formed XML'}")
            else:
                yield article(root, f"text:{PurePosixPath(file).name}:{number - 1}", self.tables, self.xpath)
        if not number:
            yield damaged("pmc", file, "no article in it")


def article(root: Element, fallback: str, tables: bool, xpath: str = "") -> Document:
    """One article as a document.

    Args:
        root: The `article` element.
        fallback: The document's id if the article has neither PMCID nor PMID.
        tables: Include the cells of tables.
        xpath: Take only what this selects; empty takes all running text.
    """
    meta = root.find("front/article-meta")
    metadata: dict[str, Any] = {"source": "pmc"}
    ids = {} if meta is None else _ids(meta, "article-id")
    metadata |= ids
    if kind := root.get("article-type"):
        metadata["article_type"] = kind
    if journal := " ".join(text_of(e) for e in root.iterfind("front//journal-title")).strip():
        metadata["journal"] = " ".join(journal.split())
    if meta is not None:
        if published := _published(meta):
            metadata["date"], metadata["year"] = published, int(published[:4])
        if license := licence(meta):
            metadata["license"] = license
    metadata["links"] = _links(root, ids)
    id = f"pmcid:{ids['pmcid']}" if "pmcid" in ids else f"pmid:{ids['pmid']}" if "pmid" in ids else fallback
    sections = selected_sections(root, xpath, tables) if xpath else body_sections(root, tables)
    return build(id, sections, metadata)


def _published(meta: Element) -> str:
    """The earliest date of publication, on paper or not."""
    dates = []
    for element in meta.iterfind("pub-date"):
        year, month, day = ((element.findtext(part) or "").strip() for part in ("year", "month", "day"))
        if len(year) == 4 and year.isdecimal():
            dates.append(date(year, month, day))
    return earliest(dates)


def licence(meta: Element) -> str:
    """The licence in SPDX's manner, lower case: `cc-by-4.0`, `cc0-1.0`; the first words of another one; empty if none is named."""
    for element in meta.iterfind("permissions/license"):
        text = " ".join(text_of(element).split())
        hrefs = [
            element.get(HREF, ""),
            *(link.get(HREF, "") for link in element.iter("{*}ext-link", "{*}license_ref")),
            text,
        ]
        for href in hrefs:
            if match := CREATIVE.search(href):
                kind = (
                    "cc0" if match[2] == "zero" else "pdm" if match[1].lower() == "publicdomain" else f"cc-{match[2]}"
                )
                return f"{kind.lower()}-{match[3]}" if match[3] else kind.lower()
        if match := NAMED.search(text):
            kind = "cc0" if match[1].lower() in ("0", "zero") else "cc-" + re.sub(r"\s", "-", match[1].lower())
            return f"{kind}-{match[2]}" if match[2] else kind
        if "Creative Commons Attribution License" in text:
            return "cc-by"
        return element.get("license-type", "").lower() or "other"
    return ""


def _ids(parent: Element, tag: str) -> dict[str, str]:
    """`pmid`, `pmcid` (with its `PMC`) and `doi` (lower case) among an element's children."""
    found: dict[str, str] = {}
    for item in parent.iter(tag):
        kind, value = item.get("pub-id-type", ""), (item.text or "").strip()
        if not value:
            continue
        if kind in PMID_TYPES and value.isdecimal():
            found.setdefault("pmid", str(int(value)))
        elif kind in PMCID_TYPES and (number := value.upper().removeprefix("PMC")).isdecimal():
            found.setdefault("pmcid", f"PMC{int(number)}")
        elif kind == "doi":
            found.setdefault("doi", value.lower())
    return found


def _links(root: Element, own: dict[str, str]) -> list[str]:
    """What the article cites, in order, each once: a reference by its PMID, else its PMCID, else its DOI."""
    found: dict[str, None] = {}
    for reference in root.iter("ref"):
        ids = _ids(reference, "pub-id")
        kind = next((kind for kind in ("pmid", "pmcid", "doi") if kind in ids), None)
        if kind and ids[kind] != own.get(kind):
            found[f"{kind}:{ids[kind]}"] = None
    return list(found)
