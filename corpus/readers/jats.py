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

from biomlm.core.errors import ConfigError
from biomlm.corpus.readers.jats_body import TRANSLATION, body_sections, selected_sections
from biomlm.corpus.readers.jats_references import cited, cut, ids, linked, reference_ids
from biomlm.corpus.text.dates import date, earliest
from biomlm.corpus.text.document import DROPPED, RETRACTS, build, damaged
from biomlm.inputs.streams import bare_name, opened
from biomlm.inputs.tar import members
from biomlm.inputs.xml import Cutter, parse, parser, text_of, without_namespace

Element = etree._Element

CITATIONS = ("element-citation", "mixed-citation", "citation", "nlm-citation")
ARTICLES = (".xml", ".nxml")
PACKAGE = ".tar"
HREF = "{http://www.w3.org/1999/xlink}href"
CREATIVE = re.compile(r"creativecommons\.org/(licenses|publicdomain)/([a-z-]+)(?:/(\d\.\d))?", re.I)
RELEASED = re.compile(r"(?<!\d)(20\d\d)-?([01]\d)-?([0-3]\d)(?!\d)")  # in a package's name: its date
RETRACTED_TITLE = re.compile(r"\s*\[?(?:retracted|withdrawn)(?: article)?\]?\s*:", re.I)
NAMED = re.compile(r"\bcc[\s-]?(by(?:[\s-](?:nc|nd|sa))*|0|zero)(?:[\s-]?v?(\d\.\d))?\b", re.I)


class JatsReader(BaseDiskReader):  # type: ignore[misc]
    """Read JATS as a datatrove reader; see `BaseDiskReader` for the other arguments.

    Args:
        data_folder: Where the files are.
        tables: Include the cells of tables, a row as a block.
        xpath: Take only what this selects, such as `.//abstract | .//fig` (as EMBO's BioLang does), each match as a section.
        translations: Keep translations that stand in an article, as documents of their own.

    Raises:
        ConfigError: The XPath cannot be read.
    """

    name = "JATS"

    def __init__(
        self, data_folder: Any, tables: bool = False, xpath: str = "", translations: bool = False, **kwargs: Any
    ):
        super().__init__(data_folder, **kwargs)
        self.tables, self.xpath, self.translations = tables, xpath, translations
        try:
            etree.XPath(xpath or ".")
        except etree.XPathSyntaxError:
            raise ConfigError(f"`{xpath}` is not an XPath", remedy="Give one such as './/abstract | .//fig'.") from None

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Yield every article of one `.xml`, `.nxml` or tar file, compressed or not."""
        with opened(self, filepath) as stream:
            if bare_name(filepath).endswith(PACKAGE):
                yield from self._package(stream, filepath)
            else:
                yield from self._articles(stream, filepath, filepath)

    def _package(self, stream: IO[bytes], filepath: str) -> Iterator[Document]:
        last, has_article = "its start", False
        try:
            for last, member in members(stream):
                if member is None:
                    has_article = True
                    yield damaged("pmc", filepath, f"after {last}, damaged package")
                elif last.lower().endswith(ARTICLES):
                    has_article = True
                    yield from self._articles(cast(IO[bytes], member), f"{filepath}/{last}", filepath)
        except (EOFError, zlib.error):
            yield damaged("pmc", filepath, f"after {last}, truncated or damaged package")
        else:
            if not has_article:
                yield damaged("pmc", filepath, "no article in it")

    def _articles(self, stream: IO[bytes], file: str, package: str) -> Iterator[Document]:
        cutter, xml, number = Cutter("article"), parser(), 0
        date_of_package = RELEASED.search(PurePosixPath(package).name)
        released = int("".join(date_of_package.groups())) if date_of_package else 0
        for number, piece in enumerate(cutter.cut(stream), start=1):
            data, references = cut(piece.data)
            root = None if piece.problem else parse(data, xml, cutter.encoding, cutter.prefixes)
            if root is None:
                yield damaged("pmc", file, f"byte {piece.at}, {piece.problem or 'ill-formed XML'}")
            else:
                fallback = f"text:{PurePosixPath(file).name}:{number - 1}"
                document = article(without_namespace(root), references, fallback, self.tables, self.xpath)
                for part in (document, *self._translations(root, document, references)):
                    part.metadata["version"] = [_version(root), released]
                    yield part
        if not number:
            yield damaged("pmc", file, "no article in it")

    def _translations(self, root: Element, original: Document, references: list[str]) -> Iterator[Document]:
        """Yield the translations that stand in an article, each as a document of its own."""
        for number, part in enumerate(root.iterfind(f"sub-article[@article-type='{TRANSLATION}']"), start=1):
            language = part.get("{http://www.w3.org/XML/1998/namespace}lang", "") or f"translation-{number}"
            names = ("source", "pmid", "pmcid", "doi", "journal", "date", "year", "license", "retracted")
            metadata: dict[str, Any] = {name: original.metadata[name] for name in names if name in original.metadata}
            metadata |= {"article_type": TRANSLATION, "translation_of": original.id, "language": language, "links": []}
            if not self.translations:
                metadata[DROPPED] = TRANSLATION
            yield build(
                f"{original.id}:{language}", body_sections(part, self.tables, reference_ids(references)), metadata
            )


def article(root: Element, references: list[str], fallback: str, tables: bool, xpath: str = "") -> Document:
    """Build a document from one article.

    Args:
        root: The `article` element.
        references: The reference lists that were cut out of it.
        fallback: The document's id if the article has neither PMCID nor PMID.
        tables: Include the cells of tables.
        xpath: Take only what this selects; empty takes all running text.
    """
    meta = root.find("front/article-meta")
    metadata: dict[str, Any] = {"source": "pmc"}
    own = {} if meta is None else _ids(meta, "article-id")
    metadata |= own
    if kind := root.get("article-type"):
        metadata["article_type"] = kind
    if journal := " ".join(text_of(e) for e in root.iterfind("front//journal-title")).strip():
        metadata["journal"] = " ".join(journal.split())
    if meta is not None:
        if published := _published(meta):
            metadata["date"], metadata["year"] = published, int(published[:4])
        if license := licence(meta):
            metadata["license"] = license
    metadata |= _retraction(root)
    metadata["links"] = _links(root, references, own)
    id = f"pmcid:{own['pmcid']}" if "pmcid" in own else f"pmid:{own['pmid']}" if "pmid" in own else fallback
    pointed_to = reference_ids(references) | set(filter(None, (item.get("id") for item in root.iter("ref"))))
    sections = selected_sections(root, xpath, tables, pointed_to) if xpath else body_sections(root, tables, pointed_to)
    return build(id, sections, metadata)


def _version(root: Element) -> int:
    """Return the number of an article's version in PMC: `PMC123.2` is the second."""
    for item in root.iterfind("front/article-meta/article-id[@pub-id-type='pmcid-ver']"):
        number = (item.text or "").strip().rpartition(".")[2]
        if number.isdecimal():
            return int(number)
    return 1


def _retraction(root: Element) -> dict[str, Any]:
    """Return whether an article is retracted, and what it retracts if it is such a notice."""
    facts: dict[str, Any] = {}
    title = root.find("front/article-meta/title-group/article-title")
    if title is not None and RETRACTED_TITLE.match(text_of(title)):
        facts["retracted"] = True
    retracts: list[str] = []
    for related in root.iterfind("front/article-meta/related-article"):
        kind = related.get("related-article-type", "")
        if kind == "retraction-forward":
            facts["retracted"] = True
        elif kind == "retracted-article":
            names = ids([(related.get("ext-link-type", ""), related.get(HREF, ""))])
            retracts += [f"{name}:{value}" for name, value in names.items()]
    return facts | ({RETRACTS: retracts} if retracts else {})


def _published(meta: Element) -> str:
    """Return the earliest date of publication, on paper or not."""
    dates = []
    for element in meta.iterfind("pub-date"):
        year, month, day = ((element.findtext(part) or "").strip() for part in ("year", "month", "day"))
        if len(year) == 4 and year.isdecimal():
            dates.append(date(year, month, day))
    return earliest(dates)


def licence(meta: Element) -> str:
    """Return the licence in SPDX's manner, lower case: `cc-by-4.0`, `cc0-1.0`; the first words of another one; empty if none is named."""
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
    """Return the ids among an element's descendants."""
    return ids((item.get("pub-id-type", ""), item.text or "") for item in parent.iter(tag))


def _cited_by(reference: Element) -> Iterator[dict[str, str]]:
    """Yield the ids of a reference's citations, which its tree has."""
    alternatives = next(reference.iter("citation-alternatives"), None) is not None
    citations = [reference] if alternatives else list(reference.iter(*CITATIONS)) or [reference]
    for citation in citations:
        pairs = [(item.get("pub-id-type", ""), item.text or "") for item in citation.iter("pub-id", "object-id")]
        links = [linked(item.get("ext-link-type", ""), item.get(HREF, "")) for item in citation.iter("ext-link")]
        yield ids((*pairs, *links))


def _links(root: Element, references: list[str], own: dict[str, str]) -> list[str]:
    """List what the article cites, in order, each once: a reference by its PMID, else its PMCID, else its DOI."""
    links: dict[str, None] = {}
    for names in (*cited(references), *(names for reference in root.iter("ref") for names in _cited_by(reference))):
        kind = next((kind for kind in ("pmid", "pmcid", "doi") if kind in names), None)
        if kind and names[kind] != own.get(kind):
            links[f"{kind}:{names[kind]}"] = None
    return list(links)
