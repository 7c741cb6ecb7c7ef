"""The quick way through a PubMed record: find the few elements that matter in its bytes and parse nothing else.

Nine tenths of a record are authors, dates and headings. Building a tree of them takes longer than all the rest of reading, so elements
are cut out with `bytes.find`, and only text with markup or entities goes to the XML parser. Wherever a record is not exactly as the NLM
writes it (a tag without its partner, a comment, CDATA, bytes that are not UTF-8), `scan` gives up and the record is read as a tree, which
is the definition of what is right; a test holds both to the same result on every record.
"""

import re
from typing import Any

from lxml import etree

from biolm.corpus.records import text_of

Section = tuple[str, list[str]]

PMID = re.compile(rb'<PMID(?: Version="([0-9]+)")?>([0-9]+)</PMID>')
REVISED = re.compile(rb"<DateRevised>\s*<Year>(\d+)</Year>\s*<Month>(\d+)</Month>\s*<Day>(\d+)</Day>")
YEAR = re.compile(rb"(?:1[89]|20|21)[0-9]{2}")
LABEL = re.compile(rb'\sLabel="([^"]*)"')
LANGUAGE_OF = re.compile(rb'\sLanguage="([^"]*)"')
TYPE_OF = re.compile(rb'\sType="([^"]*)"')
ARTICLE_ID = re.compile(rb'<ArticleId IdType="(doi|pmc)">([^<]*)</ArticleId>')
LOCATION = re.compile(rb'<ELocationID EIdType="doi"(?: ValidYN="Y")?>([^<]*)</ELocationID>')
CITED = re.compile(rb'="pubmed">\s*([0-9]+)\s*</ArticleId>')
RELATED = re.compile(rb'<CommentsCorrections RefType="(\w+)">(.*?)</CommentsCorrections>', re.S)


class Tag:
    """An element's name and the bytes that its tags begin with."""

    def __init__(self, name: str):
        self.name = name.encode()
        self.opening, self.closing = b"<" + self.name, b"</" + self.name + b">"
        self.width = len(self.opening)


ARTICLE, ARTICLE_TITLE, VERNACULAR = Tag("Article"), Tag("ArticleTitle"), Tag("VernacularTitle")
ABSTRACT, ABSTRACT_TEXT, OTHER_ABSTRACT = Tag("Abstract"), Tag("AbstractText"), Tag("OtherAbstract")
JOURNAL, TITLE, PUB_DATE, LANGUAGE = Tag("Journal"), Tag("Title"), Tag("PubDate"), Tag("Language")
PUBLICATION_TYPES, PUBLICATION_TYPE = Tag("PublicationTypeList"), Tag("PublicationType")
MESH_HEADINGS, DESCRIPTOR = Tag("MeshHeadingList"), Tag("DescriptorName")
ARTICLE_ID_LIST, COMMENTS = Tag("ArticleIdList"), Tag("CommentsCorrectionsList")


class OddRecordError(Exception):
    """The record is not as the NLM writes it: read it as a tree."""


def scan(record: bytes, xml: etree.XMLParser) -> dict[str, Any] | None:
    """What `pubmed.facts` finds in a record's tree, from its bytes; None if the tree must be asked.

    Args:
        record: A `PubmedArticle` or `MedlineCitation` element.
        xml: From `records.parser()`.
    """
    if (b"!" in record and b"<!" in record) or (b"?" in record and b"<?" in record):  # one byte is found much sooner
        return None
    try:
        return _Scanner(record, xml).facts()
    except (OddRecordError, UnicodeDecodeError, etree.XMLSyntaxError):
        return None


class _Scanner:
    """Scans one record; positions are bytes of it."""

    def __init__(self, record: bytes, xml: etree.XMLParser):
        self.record, self.xml = record, xml

    def facts(self) -> dict[str, Any]:
        """What is in the record; elements are looked for where the DTD's order puts them, past the long lists between."""
        record = self.record
        pmid = PMID.search(record, 0, 400)
        _, start, stop = self.element(ARTICLE, 0, len(record))
        end = record.find(b"</MedlineCitation>", stop)
        if pmid is None or not pmid.end() <= start or end < 0:
            raise OddRecordError
        facts: dict[str, Any] = {"pmid": pmid[2].decode(), "version": [int(pmid[1] or 1), self.revised(start)]}
        sections: list[Section] = []
        _, title, title_end = self.element(ARTICLE_TITLE, start, stop)
        authors = record.find(b"<AuthorList", title_end, stop)
        behind = record.find(b"</AuthorList>", authors, stop) if authors >= 0 else title_end
        if title < 0 or behind < 0:
            raise OddRecordError
        sections.append(("Title", [self.text(title, title_end)]))
        before = authors if authors >= 0 else stop
        self.add(sections, VERNACULAR, "Vernacular title", behind, stop)
        _, begin, finish = self.element(ABSTRACT, title_end, before)
        if begin >= 0:
            self.abstract(begin, finish, "Abstract", sections)
        self.journal(facts, start, title)
        self.several(facts, "languages", LANGUAGE, behind, stop)
        self.listed(facts, "publication_types", PUBLICATION_TYPES, PUBLICATION_TYPE, behind, stop)
        self.listed(facts, "mesh", MESH_HEADINGS, DESCRIPTOR, stop, end)
        self.identify(facts, title_end, before, end)
        self.cite(facts, stop, end)
        self.other_abstracts(sections, stop, end)
        facts["sections"] = sections
        return facts

    def element(self, tag: Tag, start: int, stop: int) -> tuple[bytes, int, int]:
        """Attributes of the first such element and where its content lies; `-1, -1` if there is none or it is empty."""
        record = self.record
        at = record.find(tag.opening, start, stop)
        width = tag.width
        while at >= 0 and record[at + width] not in b"> /":
            at = record.find(tag.opening, at + 1, stop)
        end = record.find(tag.closing, start, stop)
        if at < 0:
            if end >= 0:
                raise OddRecordError
            return b"", -1, -1
        close = at + width if record[at + width] == 0x3E else record.find(b">", at, stop)  # 0x3E is ">"
        if record[close - 1] == 0x2F:  # "/"
            return b"", -1, -1
        if not close < end:
            raise OddRecordError
        return record[at + width : close], close + 1, end

    def text(self, start: int, stop: int) -> str:
        """The text of a stretch of content."""
        return self.plain(self.record[start:stop])

    def plain(self, content: bytes) -> str:
        """Content without markup and entities."""
        if b"<" in content or b"&" in content:
            return text_of(etree.fromstring(b"<t>" + content + b"</t>", self.xml))
        return content.decode()

    def revised(self, stop: int) -> int:
        """The date of revision as one number."""
        at = self.record.find(b"<DateRevised>", 0, stop)
        if at < 0:
            return 0
        date = REVISED.match(self.record, at, stop)
        if date is None:
            raise OddRecordError
        return int(b"".join(part.zfill(2) for part in date.groups()))

    def add(self, sections: list[Section], tag: Tag, path: str, start: int, stop: int) -> None:
        """Add an element that is often absent as a section."""
        if self.record.find(tag.name, start, stop) < 0:  # neither start nor end tag
            return
        _, begin, finish = self.element(tag, start, stop)
        if begin >= 0:
            sections.append((path, [self.text(begin, finish)]))

    def other_abstracts(self, sections: list[Section], at: int, end: int) -> None:
        while self.record.find(b"OtherAbstract", at, end) >= 0:
            attributes, begin, finish = self.element(OTHER_ABSTRACT, at, end)
            if begin < 0:
                return
            kind = LANGUAGE_OF.search(attributes) or TYPE_OF.search(attributes)
            self.abstract(begin, finish, f"Other abstract ({self.plain(kind[1]) if kind else 'unknown'})", sections)
            at = finish + len(OTHER_ABSTRACT.closing)

    def abstract(self, start: int, stop: int, path: str, found: list[Section]) -> None:
        while True:
            attributes, begin, end = self.element(ABSTRACT_TEXT, start, stop)
            if begin < 0:
                return
            label = LABEL.search(attributes) if attributes else None
            name = self.plain(label[1]).strip() if label else ""
            if name and name.upper() != "UNLABELLED":
                found.append((f"{path} / {name}", [name, self.text(begin, end)]))
            else:
                found.append((path, [self.text(begin, end)]))
            start = end + 1

    def journal(self, facts: dict[str, Any], start: int, stop: int) -> None:
        """Name and year."""
        _, begin, finish = self.element(JOURNAL, start, stop)
        if begin < 0:
            return
        _, date, date_end = self.element(PUB_DATE, begin, finish)
        _, title, title_end = self.element(TITLE, max(begin, date_end), finish)
        if title >= 0 and (name := self.text(title, title_end).strip()):
            facts["journal"] = name
        if date >= 0 and (year := YEAR.search(self.record, date, date_end)):
            facts["year"] = int(year[0])

    def listed(self, facts: dict[str, Any], name: str, outer: Tag, inner: Tag, start: int, stop: int) -> None:
        """Take over the values of a list's elements."""
        _, begin, finish = self.element(outer, start, stop)
        if begin >= 0:
            self.several(facts, name, inner, begin, finish)

    def several(self, facts: dict[str, Any], name: str, tag: Tag, start: int, stop: int) -> None:
        """Take over the values of all elements `tag`, none of which has children."""
        parts = self.record[start:stop].split(tag.closing)
        values = [part[part.rfind(b">") + 1 :] for part in parts[:-1]]
        if values := [value for value in values if value]:
            facts[name] = [self.plain(value).strip() for value in values]

    def identify(self, facts: dict[str, Any], start: int, stop: int, end: int) -> None:
        """DOI and PMCID: the first list of ids behind the citation is the article's own, later ones are its references'."""
        record = self.record
        _, begin, finish = self.element(ARTICLE_ID_LIST, end, len(record))
        if begin >= 0:
            for kind, value in ARTICLE_ID.findall(record, begin, finish):
                if value.strip():
                    facts["doi" if kind == b"doi" else "pmcid"] = self.plain(value).strip()
        if "doi" not in facts:
            for value in LOCATION.findall(record, start, stop):
                if value.strip():
                    facts["doi"] = self.plain(value).strip()

    def cite(self, facts: dict[str, Any], start: int, end: int) -> None:
        """PMIDs of references, and of related articles by kind."""
        record = self.record
        begin = record.find(b"<ReferenceList>", end)
        facts["cited"] = [number.decode() for number in CITED.findall(record, begin)] if begin >= 0 else []
        facts["related"] = []
        if record.find(b"CommentsCorrectionsList", start, end) < 0:
            return
        _, begin, finish = self.element(COMMENTS, start, end)
        if begin >= 0:
            for kind, inside in RELATED.findall(record, begin, finish):
                pmid = PMID.search(inside)
                facts["related"].append((kind.decode(), pmid[2].decode() if pmid else ""))
