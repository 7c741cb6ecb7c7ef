"""PubMed: baseline and update files, `MedlineCitationSet`, exports under another root → one document a citation.

Formats: the NLM's PubMed DTDs from 2013 on (https://dtd.nlm.nih.gov/ncbi/pubmed/). Text is the title, then every section of the abstract
with its label, then abstracts in other languages. Citations are the PMIDs in `ReferenceList` and `CommentsCorrectionsList`.
"""

import re
from collections.abc import Iterator
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseDiskReader
from lxml import etree

from biolm.corpus.document import build, damaged
from biolm.corpus.records import Cutter, parse, parser, text_of
from biolm.corpus.streams import opened

YEAR = re.compile(r"(?:1[89]|20|21)\d\d")
RECORDS = ("PubmedArticle", "PubmedBookArticle", "MedlineCitation", "DeleteCitation")
DELETES = "deletes"  # metadata key: PMIDs that an update file takes back

Element = etree._Element


class PubMedReader(BaseDiskReader):  # type: ignore[misc]
    """Reads PubMed XML as a datatrove reader; see `BaseDiskReader` for the arguments.

    Every record gives one Document; one that cannot be used is marked in its metadata (`biolm.corpus.document.DROPPED`).
    """

    name = "PubMed"

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Every record of one `.xml` or `.xml.gz` file."""
        cutter, xml = Cutter(*RECORDS), parser()
        with opened(self.data_folder, filepath) as stream:
            for piece in cutter.cut(stream):
                root = None if piece.problem else parse(piece.data, xml, cutter.encoding)
                if root is None:
                    yield damaged("pubmed", filepath, f"byte {piece.at}, {piece.problem or 'ill-formed XML'}")
                    continue
                document = deletion(root, filepath, piece.at) if root.tag == "DeleteCitation" else citation(root)
                yield document or damaged("pubmed", filepath, f"byte {piece.at}, no PMID")


def deletion(root: Element, file: str, at: int) -> Document:
    """A `DeleteCitation` as a Document without text; its PMIDs are in the metadata."""
    pmids = [int(text) for element in root.iter("PMID") if (text := (element.text or "").strip()).isdecimal()]
    return Document(text="", id=f"delete:{file}:{at}", metadata={"source": "pubmed", DELETES: pmids})


def citation(root: Element) -> Document | None:
    """One citation as a document, or None if it has no PMID."""
    record = root if root.tag == "MedlineCitation" else root.find("MedlineCitation")
    if record is None:
        record = root.find("BookDocument")
    pmid = None if record is None else record.find("PMID")
    if record is None or pmid is None or not (number := (pmid.text or "").strip()).isdecimal():
        return None
    metadata: dict[str, Any] = {"source": "pubmed", "pmid": number, "version": _version(pmid, record)}
    article = record.find("Article")
    if article is None:
        article = record
    sections = list(_sections(article, record))
    _describe(article, record, metadata)
    _identify(root, article, metadata)
    metadata["links"] = _links(root, record, metadata)
    return build(f"pmid:{number}", sections, metadata)


def _version(pmid: Element, record: Element) -> list[int]:
    """What decides between two records of one PMID: version, then the date of revision as one number."""
    version = pmid.get("Version", "1")
    date = record.find("DateRevised")
    parts = [] if date is None else [text for part in date if (text := (part.text or "").strip()).isdecimal()]
    return [int(version) if version.isdecimal() else 1, int("".join(f"{int(p):02}" for p in parts[:3]) or 0)]


def _sections(article: Element, record: Element) -> Iterator[tuple[str, list[str]]]:
    title = article.find("ArticleTitle")
    if title is None:
        title = article.find("Book/BookTitle")
    if title is not None:
        yield "Title", [text_of(title)]
    vernacular = article.find("VernacularTitle")
    if vernacular is not None:
        yield "Vernacular title", [text_of(vernacular)]
    abstract = article.find("Abstract")
    if abstract is not None:
        yield from _abstract(abstract, "Abstract")
    for other in record.iterfind("OtherAbstract"):
        yield from _abstract(other, f"Other abstract ({other.get('Language', other.get('Type', 'unknown'))})")


def _abstract(abstract: Element, path: str) -> Iterator[tuple[str, list[str]]]:
    for part in abstract.iterfind("AbstractText"):
        label = (part.get("Label") or "").strip()
        if label and label.upper() != "UNLABELLED":
            yield f"{path} / {label}", [label, text_of(part)]
        else:
            yield path, [text_of(part)]


def _describe(article: Element, record: Element, metadata: dict[str, Any]) -> None:
    """Journal, year, languages, publication types, MeSH headings, retraction."""
    journal = article.find("Journal")
    if journal is not None:
        if name := (journal.findtext("Title") or "").strip():
            metadata["journal"] = name
        date = journal.find("JournalIssue/PubDate")
        if date is not None and (year := YEAR.search(text_of(date))):
            metadata["year"] = int(year[0])
    for name, parent, path in (
        ("languages", article, "Language"),
        ("publication_types", article, "PublicationTypeList/PublicationType"),
        ("mesh", record, "MeshHeadingList/MeshHeading/DescriptorName"),
    ):
        if values := [item.text.strip() for item in parent.iterfind(path) if item.text]:
            metadata[name] = values
    if "Retracted Publication" in metadata.get("publication_types", ()):
        metadata["retracted"] = True


def _identify(root: Element, article: Element, metadata: dict[str, Any]) -> None:
    """DOI and PMCID."""
    for item in root.iterfind("*/ArticleIdList/ArticleId"):
        kind, value = item.get("IdType"), (item.text or "").strip()
        if kind == "doi" and value:
            metadata["doi"] = value.lower()
        elif kind == "pmc" and value:
            metadata["pmcid"] = value
    if "doi" not in metadata:
        for item in article.iterfind("ELocationID"):
            if item.get("EIdType") == "doi" and item.get("ValidYN", "Y") == "Y" and item.text:
                metadata["doi"] = item.text.strip().lower()


def _links(root: Element, record: Element, metadata: dict[str, Any]) -> list[str]:
    """PMIDs of cited articles, in order, each once; a `RetractionIn` marks the citation as retracted."""
    found: dict[str, None] = {}
    for item in root.iterfind("PubmedData//ReferenceList//ArticleId"):
        if item.get("IdType") == "pubmed" and (number := (item.text or "").strip()).isdecimal():
            found[f"pmid:{number}"] = None
    for item in record.iterfind("CommentsCorrectionsList/CommentsCorrections"):
        kind = item.get("RefType")
        if kind in ("RetractionIn", "PartialRetractionIn"):
            metadata["retracted"] = metadata.get("retracted", False) or kind == "RetractionIn"
        elif kind in ("Cites", "CommentOn", "ErratumFor", "UpdateOf", "OriginalReportIn", "ReprintOf"):
            number = (item.findtext("PMID") or "").strip()
            if number.isdecimal():
                found[f"pmid:{number}"] = None
    found.pop(f"pmid:{metadata['pmid']}", None)
    return list(found)
