"""The quick way through a PubMed record: cut its bytes up in the DTD's order and parse nothing but the few elements that matter.

Nine tenths of a record are authors, dates and headings. Building a tree of them takes longer than all the rest of reading, so elements
are cut out with `bytes.find` (0.25 ns a byte) by few calls, and only text with markup or entities goes to the XML parser. Wherever a
record is not exactly as the NLM writes it (a tag without its partner, another order, a comment, CDATA, bytes that are not UTF-8), `scan`
gives up and the record is read as a tree, which is the definition of what is right; a test holds both to the same result on every record.
"""

import re
from typing import Any

from lxml import etree

from biomlm.corpus.text.dates import written
from biomlm.inputs.search import find
from biomlm.inputs.xml import text_of

Section = tuple[str, list[str]]

PMID = re.compile(rb'<PMID(?: Version="([0-9]+)")?>([0-9]+)</PMID>')
REVISED = re.compile(rb"<DateRevised>\s*<Year>(\d+)</Year>\s*<Month>(\d+)</Month>\s*<Day>(\d+)</Day>")
RELATED = re.compile(
    r'<CommentsCorrections RefType="(\w+)">[^<]*(?:<(?!PMID|/CommentsCorrections>)[^<]*)*'
    r'(?:<PMID(?: Version="[0-9]+")?>\s*([0-9]+)\s*</PMID>)?'
)
CITED = re.compile(r'="pubmed">\s*([0-9]+)\s*</ArticleId>')
LABEL = re.compile(r'\sLabel="([^"]*)"')
LANGUAGE_OF = re.compile(r'\sLanguage="([^"]*)"')
TYPE_OF = re.compile(r'\sType="([^"]*)"')
ARTICLE_ID = re.compile(r'<ArticleId IdType="(doi|pmc)">([^<]*)</ArticleId>')
LOCATION = re.compile(r'<ELocationID EIdType="doi"(?: ValidYN="Y")?>([^<]*)</ELocationID>')
LANGUAGE = re.compile(r"<Language>([^<]+)</Language>")
PUBLICATION_TYPE = re.compile(r"<PublicationType(?: [^<>]*)?>([^<]+)</PublicationType>")
DESCRIPTOR = re.compile(r"<DescriptorName\s[^<>]*>([^<]+)</DescriptorName>")
VERNACULAR = re.compile(r"<VernacularTitle>([^<]*(?:<(?!/?VernacularTitle>)[^<]*)*)</VernacularTitle>")
ABSTRACT_TEXT = re.compile(r"<AbstractText([^<>]*)>([^<]*(?:<(?!/?AbstractText)[^<]*)*)</AbstractText>")
OTHER_ABSTRACT = re.compile(r"<OtherAbstract([^<>]*)>([^<]*(?:<(?!/?OtherAbstract)[^<]*)*)</OtherAbstract>")


class Tag:
    """Hold the tags of an element that the NLM writes without attributes."""

    def __init__(self, name: str):
        self.opening, self.closing = f"<{name}>".encode(), f"</{name}>".encode()
        self.width = len(self.opening)


TITLE, PUB_DATE, ARTICLE_TITLE, ABSTRACT = Tag("Title"), Tag("PubDate"), Tag("ArticleTitle"), Tag("Abstract")
COMMENTS, MESH_HEADINGS, ARTICLE_IDS = Tag("CommentsCorrectionsList"), Tag("MeshHeadingList"), Tag("ArticleIdList")


class OddRecordError(Exception):
    """Raised where a record is not as the NLM writes it, so that it is read as a tree."""


def scan(record: bytes, xml: etree.XMLParser) -> dict[str, Any] | None:
    """Collect from a record's bytes what `pubmed.facts` finds in its tree; return None if the tree must be read.

    Args:
        record: A `PubmedArticle` or `MedlineCitation` element.
        xml: From `inputs.xml.parser()`.
    """
    if find(record, b"<!") >= 0 or find(record, b"<?") >= 0:
        return None
    try:
        return _facts(record, xml)
    except (OddRecordError, UnicodeDecodeError, etree.XMLSyntaxError):
        return None


def _facts(record: bytes, xml: etree.XMLParser) -> dict[str, Any]:
    """Find where the parts of the record are in the DTD's order, and look for everything in its own part."""
    pmid = PMID.search(record, 0, 400)
    if pmid is None:
        raise OddRecordError
    start = record.find(b"<Article", pmid.end())
    title, behind = _inside(ARTICLE_TITLE, record, start, len(record))
    stop = find(record, b"</Article>", behind)
    end = find(record, b"</MedlineCitation>", stop)
    if start < 0 or title < 0 or stop < 0 or end < 0:
        raise OddRecordError
    facts: dict[str, Any] = {"pmid": pmid[2].decode(), "version": [int(pmid[1] or 1), 0]}
    facts["sections"] = sections = [("Title", [_plain(record[title:behind].decode(), xml)])]
    _head(facts, record[pmid.end() : start], record[start:title], xml)
    _ids_and_references(facts, record, end, xml)
    _article(facts, sections, record, behind, stop, xml)
    _lists(facts, sections, record, stop, end, xml)
    return facts


def _head(facts: dict[str, Any], dates: bytes, journal: bytes, xml: etree.XMLParser) -> None:
    """Add what stands before the title: date of revision, journal, date of publication."""
    if b"DateRevised" in dates:
        date = REVISED.search(dates)
        if date is None:
            raise OddRecordError
        facts["version"][1] = int(b"%b%b%b" % (date[1], date[2].zfill(2), date[3].zfill(2)))
    begin, end = _inside(PUB_DATE, journal, 0, len(journal))
    if begin >= 0 and (published := written(journal[begin:end].decode())):
        facts["date"], facts["year"] = published, int(published[:4])
    begin, end = _inside(TITLE, journal, max(end, 0), len(journal))
    if begin >= 0 and (name := _plain(journal[begin:end].decode(), xml).strip()):
        facts["journal"] = name


def _ids_and_references(facts: dict[str, Any], record: bytes, start: int, xml: etree.XMLParser) -> None:
    """Add the ids of `PubmedData`: its first list of ids is the article's own, later ones are its references'."""
    begin, end = _inside(ARTICLE_IDS, record, start, len(record))
    if begin >= 0:
        for kind, value in ARTICLE_ID.findall(record[begin:end].decode()):
            if value.strip():
                facts["doi" if kind == "doi" else "pmcid"] = _plain(value, xml).strip()
    at = find(record, b"<ReferenceList>", max(end, start))
    facts["cited"] = CITED.findall(record[at:].decode("latin-1")) if at >= 0 else []


def _article(
    facts: dict[str, Any], sections: list[Section], record: bytes, start: int, stop: int, xml: etree.XMLParser
) -> None:
    """Add what stands between the title and the end of `Article`: DOI, abstract, languages, publication types."""
    begin, end = _inside(ABSTRACT, record, start, stop)
    languages = find(record, b"<Language>", max(start, end), stop)
    if languages < 0:
        raise OddRecordError
    if "doi" not in facts:
        for value in LOCATION.findall(record[start : begin if begin >= 0 else languages].decode()):
            if value.strip():
                facts["doi"] = _plain(value, xml).strip()
    back = record[languages:stop].decode()
    _values(facts, "languages", LANGUAGE, back, xml)
    _values(facts, "publication_types", PUBLICATION_TYPE, back, xml)
    if "VernacularTitle" in back:
        title = VERNACULAR.search(back)
        if title is None:
            raise OddRecordError
        sections.append(("Vernacular title", [_plain(title[1], xml)]))
    if begin >= 0:
        _abstract(sections, record[begin:end].decode(), "Abstract", xml)


def _lists(
    facts: dict[str, Any], sections: list[Section], record: bytes, start: int, stop: int, xml: etree.XMLParser
) -> None:
    """Add what stands between `Article` and the end of the citation: related articles, MeSH headings, other abstracts."""
    begin, end = _inside(COMMENTS, record, start, stop)
    facts["related"] = RELATED.findall(record[begin:end].decode()) if begin >= 0 else []
    begin, end = _inside(MESH_HEADINGS, record, start, stop)
    if begin >= 0:
        _values(facts, "mesh", DESCRIPTOR, record[begin:end].decode(), xml)
    if find(record, b"OtherAbstract", start, stop) < 0:
        return
    part = record[start:stop].decode()
    others = OTHER_ABSTRACT.findall(part)
    if part.count("OtherAbstract") != 2 * len(others):
        raise OddRecordError
    for attributes, content in others:
        kind = LANGUAGE_OF.search(attributes) or TYPE_OF.search(attributes)
        _abstract(sections, content, f"Other abstract ({_plain(kind[1], xml) if kind else 'unknown'})", xml)


def _inside(tag: Tag, record: bytes, start: int, stop: int) -> tuple[int, int]:
    """Return where the content of the first such element begins and ends; `-1, -1` if there is none."""
    begin = find(record, tag.opening, start, stop)
    end = find(record, tag.closing, start if begin < 0 else begin, stop)
    if begin < 0 and end < 0:
        return -1, -1
    if begin < 0 or end < 0:
        raise OddRecordError
    return begin + tag.width, end


def _abstract(sections: list[Section], part: str, path: str, xml: etree.XMLParser) -> None:
    """Add a section for every `AbstractText`, under its label if it has one."""
    texts = ABSTRACT_TEXT.findall(part)
    if part.count("AbstractText") != 2 * len(texts):
        raise OddRecordError
    for attributes, text in texts:
        label = LABEL.search(attributes) if attributes else None
        name = _plain(label[1], xml).strip() if label else ""
        if name and name.upper() != "UNLABELLED":
            sections.append((f"{path} / {name}", [name, _plain(text, xml)]))
        else:
            sections.append((path, [_plain(text, xml)]))


def _values(facts: dict[str, Any], name: str, pattern: re.Pattern[str], part: str, xml: etree.XMLParser) -> None:
    """Add the matches of a pattern: the texts of elements that have no children."""
    if values := pattern.findall(part):
        facts[name] = [_plain(value, xml).strip() for value in values] if "&" in part else list(map(str.strip, values))


def _plain(content: str, xml: etree.XMLParser) -> str:
    """Return content without markup and entities."""
    if "<" not in content and "&" not in content:
        return content
    plain = content.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    if "<" in content or plain.count("&") != plain.count("&amp;"):  # markup, or characters by number or name
        return text_of(etree.fromstring(f"<t>{content}</t>".encode(), xml))
    return plain.replace("&amp;", "&")
