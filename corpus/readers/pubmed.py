"""PubMed: baseline and update files, `MedlineCitationSet`, exports under another root → one document a citation.

Formats: the NLM's PubMed DTDs from 2013 on (https://dtd.nlm.nih.gov/ncbi/pubmed/). Text is the title, then every section of the abstract
with its label, then abstracts in other languages. Citations are the PMIDs in `ReferenceList` and `CommentsCorrectionsList`.
"""

from collections.abc import Iterator
from typing import IO, Any, cast

from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseDiskReader
from lxml import etree

from biomlm.corpus.readers import medline
from biomlm.corpus.readers.boilerplate import without_boilerplate
from biomlm.corpus.readers.pubmed_fast import Section, scan
from biomlm.corpus.text.dates import written
from biomlm.corpus.text.document import RETRACTS, build, damaged
from biomlm.inputs.streams import bare_name, opened
from biomlm.inputs.xml import Cutter, parse, parser, text_of

RECORDS = ("PubmedArticle", "PubmedBookArticle", "MedlineCitation", "DeleteCitation")
SCANNED = {"PubmedArticle", "MedlineCitation"}
DELETES = "deletes"  # metadata key: PMIDs that an update file takes back
CITING = {
    "Cites",
    "CommentOn",
    "ErratumFor",
    "UpdateOf",
    "OriginalReportIn",
    "ReprintOf",
}  # related articles that are links
COPIED = (
    "pmid",
    "version",
    "journal",
    "date",
    "year",
    "languages",
    "publication_types",
    "mesh",
    "pmcid",
    "doi",
    "encoding",
)

Element = etree._Element


class PubMedReader(BaseDiskReader):  # type: ignore[misc]
    """Read PubMed XML as a datatrove reader; see `BaseDiskReader` for the arguments.

    Every record gives one Document; one that cannot be used is marked in its metadata (`biomlm.corpus.text.document.DROPPED`).
    """

    name = "PubMed"

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Yield every record of one XML file or MEDLINE text export, compressed or not."""
        with opened(self, filepath) as stream:
            yield from (
                self._xml(stream, filepath) if bare_name(filepath).endswith(".xml") else self._export(stream, filepath)
            )

    def _export(self, stream: IO[bytes], filepath: str) -> Iterator[Document]:
        line = 0
        for line, tags in medline.records(stream):
            record_facts = None if isinstance(tags, str) else medline.facts(tags)
            if record_facts is None:
                yield damaged("pubmed", filepath, f"line {line}, {tags if isinstance(tags, str) else 'no PMID'}")
            else:
                yield citation(record_facts)
        if not line:
            yield damaged("pubmed", filepath, "no record in it")

    def _xml(self, stream: IO[bytes], filepath: str) -> Iterator[Document]:
        cutter, xml = Cutter(*RECORDS), parser()
        piece = None
        for piece in cutter.cut(stream):
            record_facts = scan(piece.data, xml) if piece.tag in SCANNED and not piece.problem else None
            if record_facts is not None:
                yield citation(record_facts)
                continue
            root = None if piece.problem else parse(piece.data, xml, cutter.encoding, cutter.prefixes)
            if root is None:
                yield damaged("pubmed", filepath, f"byte {piece.at}, {piece.problem or 'ill-formed XML'}")
            elif root.tag == "DeleteCitation":
                yield deletion(root, filepath, piece.at)
            elif (record_facts := facts(root)) is None:
                yield damaged("pubmed", filepath, f"byte {piece.at}, no PMID")
            else:
                yield citation(record_facts)
        if piece is None:
            yield damaged("pubmed", filepath, "no record in it")


def deletion(root: Element, file: str, at: int) -> Document:
    """Turn a `DeleteCitation` into a Document without text, with its PMIDs in the metadata."""
    pmids = [int(text) for element in root.iter("PMID") if (text := (element.text or "").strip()).isdecimal()]
    return Document(text="", id=f"delete:{file}:{at}", metadata={"source": "pubmed", DELETES: pmids})


def citation(facts: dict[str, Any]) -> Document:
    """Build a document from the facts of a record, which come from its tree or from `scan`."""
    metadata: dict[str, Any] = {"source": "pubmed"}
    for name in COPIED:
        if name in facts:
            metadata[name] = facts[name]
    if "doi" in metadata:
        metadata["doi"] = metadata["doi"].lower()
    related = facts["related"]
    if "Retracted Publication" in facts.get("publication_types", ()) or any(
        kind == "RetractionIn" for kind, _ in related
    ):
        metadata["retracted"] = True
    if retracts := [f"pmid:{pmid}" for kind, pmid in related if kind == "RetractionOf" and pmid]:
        metadata[RETRACTS] = retracts
    links = dict.fromkeys(facts["cited"])
    links |= dict.fromkeys(pmid for kind, pmid in related if pmid and kind in CITING)
    links.pop(facts["pmid"], None)
    metadata["links"] = [f"pmid:{pmid}" for pmid in links]
    for path, blocks in facts["sections"]:
        if path != "Title":
            blocks[-1] = without_boilerplate(blocks[-1])
    return build(f"pmid:{facts['pmid']}", facts["sections"], metadata)


def facts(root: Element) -> dict[str, Any] | None:
    """Collect what a document is made of from a record's tree; return None if it has no PMID."""
    record = root if root.tag == "MedlineCitation" else root.find("MedlineCitation")
    if record is None:
        record = root.find("BookDocument")
    pmid = None if record is None else record.find("PMID")
    if record is None or pmid is None or not (number := (pmid.text or "").strip()).isdecimal():
        return None
    article = record.find("Article")
    if article is None:
        article = record
    record_facts: dict[str, Any] = {"pmid": number, "version": _version(pmid, record)}
    record_facts["sections"] = list(_sections(article, record))
    _describe(article, record, record_facts)
    _identify(root, article, record_facts)
    record_facts["cited"] = [
        number
        for item in root.iterfind("PubmedData//ReferenceList//ArticleId")
        if item.get("IdType") == "pubmed" and (number := (item.text or "").strip()).isdecimal()
    ]
    record_facts["related"] = [
        (item.get("RefType", ""), cited if (cited := (item.findtext("PMID") or "").strip()).isdecimal() else "")
        for item in record.iterfind("CommentsCorrectionsList/CommentsCorrections")
    ]
    return record_facts


def _version(pmid: Element, record: Element) -> list[int]:
    """Return what decides between two records of one PMID: version, then the date of revision as one number."""
    version = pmid.get("Version", "1")
    date = record.find("DateRevised")
    parts = [] if date is None else [text for part in date if (text := (part.text or "").strip()).isdecimal()]
    return [int(version) if version.isdecimal() else 1, int("".join(part.zfill(2) for part in parts[:3]) or 0)]


def _sections(article: Element, record: Element) -> Iterator[Section]:
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


def _abstract(abstract: Element, path: str) -> Iterator[Section]:
    for part in abstract.iterfind("AbstractText"):
        label = (part.get("Label") or "").strip()
        if label and label.upper() != "UNLABELLED":
            yield f"{path} / {label}", [label, text_of(part)]
        else:
            yield path, [text_of(part)]


def _describe(article: Element, record: Element, facts: dict[str, Any]) -> None:
    """Add journal, date of publication, languages, publication types and MeSH headings."""
    journal = article.find("Journal")
    if journal is not None:
        if name := (journal.findtext("Title") or "").strip():
            facts["journal"] = name
        date = journal.find("JournalIssue/PubDate")
        if date is not None and (published := written(" ".join(cast(Iterator[str], date.itertext())))):
            facts["date"], facts["year"] = published, int(published[:4])
    for name, parent, path in (
        ("languages", article, "Language"),
        ("publication_types", article, "PublicationTypeList/PublicationType"),
        ("mesh", record, "MeshHeadingList/MeshHeading/DescriptorName"),
    ):
        if values := [item.text.strip() for item in parent.iterfind(path) if item.text]:
            facts[name] = values


def _identify(root: Element, article: Element, facts: dict[str, Any]) -> None:
    """Add DOI and PMCID."""
    for item in root.iterfind("*/ArticleIdList/ArticleId"):
        kind, value = item.get("IdType"), (item.text or "").strip()
        if kind in ("doi", "pmc") and value:
            facts["doi" if kind == "doi" else "pmcid"] = value
    if "doi" not in facts:
        for item in article.iterfind("ELocationID"):
            if item.get("EIdType") == "doi" and item.get("ValidYN", "Y") == "Y" and item.text:
                facts["doi"] = item.text.strip()
