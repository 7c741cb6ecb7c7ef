"""The quick way through a PubMed record: find the few elements that matter in its characters and parse nothing else.

Nine tenths of a record are authors, dates and headings. Building a tree of them takes longer than all the rest of reading, so elements
are cut out with `str.find`, and only text with markup or entities goes to the XML parser. Wherever a record is not exactly as the NLM
writes it (a tag without its partner, a comment, CDATA, bytes that are not UTF-8), `scan` gives up and the record is read as a tree, which
is the definition of what is right; a test holds both to the same result on every record.
"""

import re
from typing import Any

from lxml import etree

from biolm.corpus.records import text_of

Section = tuple[str, list[str]]

PMID = re.compile(r'<PMID(?: Version="([0-9]+)")?>([0-9]+)</PMID>')
REVISED = re.compile(r"<DateRevised>\s*<Year>(\d+)</Year>\s*<Month>(\d+)</Month>\s*<Day>(\d+)</Day>")
YEAR = re.compile(r"(?:1[89]|20|21)[0-9]{2}")
LABEL = re.compile(r'\sLabel="([^"]*)"')
LANGUAGE_OF = re.compile(r'\sLanguage="([^"]*)"')
TYPE_OF = re.compile(r'\sType="([^"]*)"')
LANGUAGE = re.compile(r"<Language>([^<]*)</Language>")
PUBLICATION_TYPE = re.compile(r">([^<]+)</PublicationType>")
DESCRIPTOR = re.compile(r">([^<]+)</DescriptorName>")
ARTICLE_ID = re.compile(r'<ArticleId IdType="(doi|pmc)">([^<]*)</ArticleId>')
LOCATION = re.compile(r'<ELocationID EIdType="doi"(?: ValidYN="Y")?>([^<]*)</ELocationID>')
CITED = re.compile(r'="pubmed">\s*([0-9]+)\s*</ArticleId>')
RELATED = re.compile(r'<CommentsCorrections RefType="(\w+)">(.*?)</CommentsCorrections>', re.S)


class OddRecordError(Exception):
    """The record is not as the NLM writes it: read it as a tree."""


def scan(record: bytes, xml: etree.XMLParser) -> dict[str, Any] | None:
    """What `pubmed.facts` finds in a record's tree, from its characters; None if the tree must be asked.

    Args:
        record: A `PubmedArticle` or `MedlineCitation` element.
        xml: From `records.parser()`.
    """
    if (b"!" in record and b"<!" in record) or (b"?" in record and b"<?" in record):  # one byte is found much sooner
        return None
    try:
        return _Scanner(record.decode(), xml).facts()
    except (OddRecordError, UnicodeDecodeError, etree.XMLSyntaxError):
        return None


class _Scanner:
    """Scans one record; positions are characters of it."""

    def __init__(self, record: str, xml: etree.XMLParser):
        self.record, self.xml = record, xml

    def facts(self) -> dict[str, Any]:
        record = self.record
        pmid = PMID.search(record, 0, 400)
        _, start, stop = self.element("Article", 0, len(record))
        end = record.find("</MedlineCitation>", stop)
        if pmid is None or not pmid.end() <= start or end < 0:
            raise OddRecordError
        facts: dict[str, Any] = {"pmid": pmid[2], "version": [int(pmid[1] or 1), self.revised(start)]}
        facts["sections"] = self.sections(start, stop, end)
        self.describe(facts, start, stop, end)
        self.identify(facts, start, stop, end)
        self.cite(facts, stop, end)
        return facts

    def element(self, tag: str, start: int, stop: int) -> tuple[str, int, int]:
        """Attributes of the first such element and where its content lies; `-1, -1` if there is none or it is empty."""
        record, opening = self.record, "<" + tag
        at = record.find(opening, start, stop)
        width = len(opening)
        while at >= 0 and record[at + width] not in "> /":
            at = record.find(opening, at + 1, stop)
        end = record.find(f"</{tag}>", start, stop)
        if at < 0:
            if end >= 0:
                raise OddRecordError
            return "", -1, -1
        close = record.find(">", at, stop)
        if record[close - 1] == "/":
            return "", -1, -1
        if not close < end:
            raise OddRecordError
        return record[at + width : close], close + 1, end

    def text(self, start: int, stop: int) -> str:
        """The text of a stretch of content."""
        content = self.record[start:stop]
        if "<" in content or "&" in content:
            return text_of(etree.fromstring(f"<t>{content}</t>", self.xml))
        return content

    def unescaped(self, value: str) -> str:
        """The value of an attribute or of an element without children."""
        return text_of(etree.fromstring(f"<t>{value}</t>", self.xml)) if "&" in value else value

    def revised(self, stop: int) -> int:
        """The date of revision as one number."""
        at = self.record.find("<DateRevised>", 0, stop)
        if at < 0:
            return 0
        date = REVISED.match(self.record, at, stop)
        if date is None:
            raise OddRecordError
        return int("".join(part.zfill(2) for part in date.groups()))

    def sections(self, start: int, stop: int, end: int) -> list[Section]:
        found: list[Section] = []
        for tag, path in (("ArticleTitle", "Title"), ("VernacularTitle", "Vernacular title")):
            _, begin, finish = self.element(tag, start, stop)
            if begin >= 0:
                found.append((path, [self.text(begin, finish)]))
        _, begin, finish = self.element("Abstract", start, stop)
        if begin >= 0:
            self.abstract(begin, finish, "Abstract", found)
        at = stop
        while True:
            attributes, begin, finish = self.element("OtherAbstract", at, end)
            if begin < 0:
                return found
            kind = LANGUAGE_OF.search(attributes) or TYPE_OF.search(attributes)
            self.abstract(begin, finish, f"Other abstract ({self.unescaped(kind[1]) if kind else 'unknown'})", found)
            at = finish + 1

    def abstract(self, start: int, stop: int, path: str, found: list[Section]) -> None:
        while True:
            attributes, begin, end = self.element("AbstractText", start, stop)
            if begin < 0:
                return
            label = LABEL.search(attributes) if attributes else None
            name = self.unescaped(label[1]).strip() if label else ""
            if name and name.upper() != "UNLABELLED":
                found.append((f"{path} / {name}", [name, self.text(begin, end)]))
            else:
                found.append((path, [self.text(begin, end)]))
            start = end + 1

    def describe(self, facts: dict[str, Any], start: int, stop: int, end: int) -> None:
        """Journal, year, languages, publication types, MeSH headings."""
        record = self.record
        _, begin, finish = self.element("Journal", start, stop)
        if begin >= 0:
            _, date, date_end = self.element("PubDate", begin, finish)
            _, title, title_end = self.element("Title", begin, finish)
            if title >= 0 and (name := self.text(title, title_end).strip()):
                facts["journal"] = name
            if date >= 0 and (year := YEAR.search(record, date, date_end)):
                facts["year"] = int(year[0])
        at = record.find("<Language>", finish, stop)
        if at >= 0:
            self.several(facts, "languages", LANGUAGE, at, stop)
        for name, tag, pattern, low, high in (
            ("publication_types", "PublicationTypeList", PUBLICATION_TYPE, finish, stop),
            ("mesh", "MeshHeadingList", DESCRIPTOR, stop, end),
        ):
            _, begin, finish = self.element(tag, low, high)
            if begin >= 0:
                self.several(facts, name, pattern, begin, finish)

    def several(self, facts: dict[str, Any], name: str, pattern: re.Pattern[str], start: int, stop: int) -> None:
        if values := pattern.findall(self.record, start, stop):
            facts[name] = [self.unescaped(value).strip() for value in values]

    def identify(self, facts: dict[str, Any], start: int, stop: int, end: int) -> None:
        """DOI and PMCID: the first list of ids behind the citation is the article's own, later ones are its references'."""
        record = self.record
        _, begin, finish = self.element("ArticleIdList", end, len(record))
        if begin >= 0:
            for kind, value in ARTICLE_ID.findall(record, begin, finish):
                if value.strip():
                    facts["doi" if kind == "doi" else "pmcid"] = self.unescaped(value).strip()
        if "doi" not in facts:
            for value in LOCATION.findall(record, start, stop):
                if value.strip():
                    facts["doi"] = self.unescaped(value).strip()

    def cite(self, facts: dict[str, Any], stop: int, end: int) -> None:
        """PMIDs of references, and of related articles by kind."""
        record = self.record
        begin = record.find("<ReferenceList>", end)
        facts["cited"] = CITED.findall(record, begin) if begin >= 0 else []
        facts["related"] = []
        _, begin, finish = self.element("CommentsCorrectionsList", stop, end)
        if begin >= 0:
            for kind, inside in RELATED.findall(record, begin, finish):
                pmid = PMID.search(inside)
                facts["related"].append((kind, pmid[2] if pmid else ""))
