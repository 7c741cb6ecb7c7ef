"""The quick way through a PubMed record: search for the few elements that matter, and parse nothing else.

Nine tenths of a record are authors, dates and headings. Building a tree of them takes longer than all the rest of reading, so elements
are found by SIMD search (0.1 ns a byte), and only text with markup or entities goes to the XML parser. That a tag stands where it must
is known by counting: between a known place and a sibling behind it, as many elements end as begin. Wherever a record is not as the NLM
writes it (another order, an element twice or inside one of its own name, a comment, CDATA, bytes that are not UTF-8), `scan` gives up
and the record is read as a tree, which is the definition of what is right; tests hold both to the same result, on records that were
rearranged at random, too.
"""

import re
from functools import lru_cache
from typing import Any

from lxml import etree

from biomlm.corpus.text.dates import written
from biomlm.inputs.search import count, find
from biomlm.inputs.xml import text_of

Section = tuple[str, list[str]]

_DAY = r"\s*<Year>(\d+)</Year>\s*<Month>(\d+)</Month>\s*<Day>(\d+)</Day>\s*"
_OTHER_DAY = _DAY.replace("(", "(?:")
_FLAT = r"(?:\s*<(?:{})(?:\s[^<>]*)?>[^<]*</[A-Za-z]+>)"
HEAD = re.compile(
    rf"""(<PubmedArticle>\s*)?<MedlineCitation(?:\s[^<>]*)?>\s*<PMID(?:\sVersion="(\d+)")?>(\d+)</PMID>\s*
    (?:<DateCreated>{_OTHER_DAY}</DateCreated>\s*)?(?:<DateCompleted>{_OTHER_DAY}</DateCompleted>\s*)?
    (?:<DateRevised>{_DAY}</DateRevised>\s*)?<Article(?:\s[^<>]*)?>\s*
    <Journal>{_FLAT.format("ISSN")}?\s*<JournalIssue(?:\s[^<>]*)?>{_FLAT.format("Volume|Issue")}*\s*
    <PubDate>({_FLAT.format("Year|Month|Day|Season|MedlineDate")}*)\s*</PubDate>\s*</JournalIssue>\s*
    (?:<Title>([^<]*)</Title>)?{_FLAT.format("ISOAbbreviation")}?\s*</Journal>\s*<ArticleTitle(?:\s[^<>]*)?>""".encode(),
    re.X,
)
BEHIND_TITLE = re.compile(
    rf"""\s*(?:<Pagination>(?:{_FLAT.format("StartPage|EndPage|MedlinePgn")}|\s*<MedlinePgn/>)*\s*</Pagination>\s*)?
    ((?:<ELocationID\s[^<>]*>[^<]*</ELocationID>\s*)*)(?:<Abstract>|<AuthorList.*)?""".encode(),
    re.X | re.S,
)
LOCATION = re.compile(r'<ELocationID EIdType="(\w+)"(?: ValidYN="([YN])")?>([^<]*)<')
LANGUAGES = re.compile(rb"(?:<Language>[^<]+</Language>\s*)+")
LANGUAGE = re.compile(r"<Language>([^<]+)<")
OTHER_ABSTRACT = re.compile(rb"<OtherAbstract((?:\s[^<>/]*)?)>([^<]*(?:<(?!/?OtherAbstract)[^<]*)*)</OtherAbstract>")
CITATION_END = re.compile(rb"</MedlineCitation>(?:\s*(<PubmedData>)|$)")
RECORD_END = re.compile(rb"</PubmedData>\s*</PubmedArticle>$")
NEXT_LIST = re.compile(rb"</ReferenceList>\s*<ReferenceList>")
CITED = re.compile(r'<ArticleId IdType="pubmed">\s*([0-9]+)\s*</ArticleId>')
LABEL = re.compile(r'\sLabel="([^"\s]*(?: [^"\s]+)*)"')
LANGUAGE_OF = re.compile(r'\sLanguage="([^"]*)"')
TYPE_OF = re.compile(r'\sType="([^"]*)"')
LOOSE_END = re.compile(rb"</[^<>\s]+\s")
CLOSED_ITSELF = re.compile(rb"""<[A-Za-z][^<>"']*(?:"[^"<]*"[^<>"']*)*/>""")
ANY = r"(?:\s[^<>/]*)?"


class Items:
    """Read the items of a list, each of which stands right behind the one before.

    Args:
        name: Their element.
        attributes: Pattern of its attributes.
        content: Pattern of what it begins with, up to its end or to what does not matter.
        only: An element that may stand once in an item and nowhere else.
    """

    def __init__(self, name: str, attributes: str, content: str, only: str = ""):
        self.name, self.closing, self.only = name.encode(), f"</{name}>", only.encode()
        # The end of the one before comes first, for literal text is found quickly.
        self.item = re.compile(rf"{self.closing}\s*<{name}{attributes}>{content}")

    def of(self, content: bytes, behind: re.Pattern[str] | None = None) -> list[Any]:
        """Return what the groups of the patterns match in every item.

        Args:
            content: The list's content.
            behind: What may stand behind the last one, beside white space.
        """
        if not content:
            return []
        text = content.decode()
        items = self.item.findall(self.closing + text)
        if 2 * len(items) != count(content, self.name) or (self.only and 2 * len(items) != count(content, self.only)):
            raise OddRecordError
        rest = text.rpartition(self.closing)[2].strip()
        if rest and (behind is None or behind.fullmatch(rest) is None):
            raise OddRecordError
        return items


TYPES = Items("PublicationType", ANY, r"([^<]+)(?=</PublicationType>)")
HEADINGS = Items("MeshHeading", "", rf"\s*<DescriptorName{ANY}>([^<]+)</DescriptorName>", only="DescriptorName")
RELATED = Items(
    "CommentsCorrections",
    r' RefType="(\w+)"',
    r"\s*(?:<RefSource>[^<]*</RefSource>\s*)?(?:<PMID(?:\sVersion=\"\d+\")?>\s*([0-9]+)\s*</PMID>\s*)?"
    r"(?:<Note>[^<]*</Note>\s*)?(?=</CommentsCorrections>)",
)
IDS = Items("ArticleId", r' IdType="(\w+)"', r"([^<]*)(?=</ArticleId>)")
TEXTS = Items("AbstractText", r"((?:\s[^<>]*)?)", r"([^<]*(?:<(?!/?AbstractText)[^<]*)*)(?=</AbstractText>)")
COPYRIGHT = re.compile(r"<CopyrightInformation>[^<]*(?:<(?!/?CopyrightInformation)[^<]*)*</CopyrightInformation>")


class Tag:
    """Hold the tags of an element that the NLM writes without attributes.

    Args:
        name: The element.
        again: Refuse one that begins inside it, too; not for one whose children's names begin like its own.
    """

    def __init__(self, name: str, again: bool = True):
        self.start, self.closing = f"<{name}".encode(), f"</{name}>".encode()
        self.width, self.again = len(self.start) + 1, again


ABSTRACT, VERNACULAR_TITLE, TYPE_LIST = Tag("Abstract", again=False), Tag("VernacularTitle"), Tag("PublicationTypeList")
COMMENTS, HEADING_LIST = Tag("CommentsCorrectionsList"), Tag("MeshHeadingList")
ID_LIST = Tag("ArticleIdList")
GREATER = ord(">")


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
    if (find(record, b" >") >= 0 or find(record, b"\n>") >= 0) and LOOSE_END.search(record):
        return None
    try:
        return _facts(record, xml)
    except (OddRecordError, UnicodeDecodeError, etree.XMLSyntaxError):
        return None


def _facts(record: bytes, xml: etree.XMLParser) -> dict[str, Any]:
    """Go through the record from its start to its end."""
    head = HEAD.match(record)
    if head is None:
        raise OddRecordError
    wrapped, version, pmid, *revised, published, journal = head.groups()
    facts: dict[str, Any] = {"pmid": pmid.decode(), "version": [int(version or 1), 0]}
    if revised[0]:
        facts["version"][1] = int(b"%b%b%b" % (revised[0], revised[1].zfill(2), revised[2].zfill(2)))
    if date := written(published.decode()):
        facts["date"], facts["year"] = date, int(date[:4])
    if journal and (name := _plain(journal.decode(), xml).strip()):
        facts["journal"] = name
    begin = head.end()
    title_end = _found(record, b"</ArticleTitle>", begin, len(record))
    facts["sections"] = sections = [("Title", [_plain(record[begin:title_end].decode(), xml)])]
    article_end = _found(record, b"</Article>", title_end, len(record))
    citation_end = _found(record, b"</MedlineCitation>", article_end, len(record))
    if find(record, b"</Article>", article_end + 1, citation_end) >= 0 or (
        not revised[0] and find(record, b"<DateRevised", article_end, citation_end) >= 0
    ):
        raise OddRecordError
    title_end, article_end = title_end + len(b"</ArticleTitle>"), article_end + len(b"</Article>")
    locations = _article(facts, sections, record, title_end, article_end, xml)
    _citation(facts, sections, record, article_end, citation_end, xml)
    behind = CITATION_END.match(record, citation_end)
    if behind is None or (wrapped is None) != (behind[1] is None):
        raise OddRecordError
    if wrapped:
        _pubmed_data(facts, record, behind.end(), xml)
    else:
        facts["cited"] = []
        if find(record, b"<ArticleIdList") >= 0 or find(record, b"<PubmedData") >= 0:
            raise OddRecordError
    if "doi" not in facts and find(record, b"<ELocationID", title_end, article_end) >= 0:
        if count(record, b"<ELocationID", title_end, article_end) != count(locations, b"<ELocationID"):
            raise OddRecordError
        if doi := _doi(locations, xml):
            facts["doi"] = doi
    return facts


def _found(record: bytes, tag: bytes, at: int, end: int) -> int:
    """Return where a tag stands next."""
    place = find(record, tag, at, end)
    if place < 0:
        raise OddRecordError
    return place


def _require_siblings(record: bytes, at: int, end: int) -> None:
    """Check that as many elements end in a part as begin, so that what stands behind it has the parent of what stands in front.

    That holds where the parent's own end tag is not in it and the record is well-formed.
    """
    if at > end:
        raise OddRecordError
    open_ones = count(record, b"<", at, end) - 2 * count(record, b"</", at, end)
    if open_ones and (find(record, b"/>", at, end) < 0 or open_ones != len(CLOSED_ITSELF.findall(record, at, end))):
        raise OddRecordError


def _only(tag: Tag, record: bytes, at: int, end: int, known: int) -> tuple[int, int]:
    """Return where the content of the only child with that tag lies.

    Args:
        tag: Its tags.
        record: The record.
        at: Where its parent's content begins,
        end: and ends.
        known: A place on its level, not behind it.

    Returns:
        Begin and end of the content; -1, -1 if there is no such child.
    """
    begin = find(record, tag.start, at, end)
    if begin < 0:
        if find(record, tag.closing, at, end) >= 0:
            raise OddRecordError
        return -1, -1
    _require_siblings(record, known, begin)
    begin += tag.width
    stop = find(record, tag.closing, begin, end)
    if stop < 0 or record[begin - 1] != GREATER or find(record, tag.start, begin if tag.again else stop, end) >= 0:
        raise OddRecordError
    return begin, stop


def _article(
    facts: dict[str, Any], sections: list[Section], record: bytes, at: int, end: int, xml: etree.XMLParser
) -> bytes:
    """Add abstract, languages and publication types from what stands behind the title; return what stands before them."""
    begin, stop = _only(ABSTRACT, record, at, end, at)
    known = stop + len(ABSTRACT.closing) if begin >= 0 else at
    first = find(record, b"<Language", at, end)
    _require_siblings(record, known, first)
    languages = LANGUAGES.match(record, first)
    if languages is None or find(record, b"<Language", languages.end(), end) >= 0:
        raise OddRecordError
    facts["languages"] = _languages(languages[0], xml).copy()
    start, stop_types = _only(TYPE_LIST, record, at, end, languages.end())
    if start >= 0 and (types := _types(record[start:stop_types], xml)):
        facts["publication_types"] = types.copy()
    start, stop_title = _only(VERNACULAR_TITLE, record, at, end, known)
    if start >= 0:
        sections.append(("Vernacular title", [_plain(record[start:stop_title].decode(), xml)]))
    if begin >= 0:
        _abstract(sections, record[begin:stop], "Abstract", xml)
    return record[at : first if begin < 0 else begin]


@lru_cache(1 << 10)
def _languages(content: bytes, xml: etree.XMLParser) -> list[str]:
    return _stripped(LANGUAGE.findall(content.decode()), xml)


@lru_cache(1 << 14)
def _types(content: bytes, xml: etree.XMLParser) -> list[str]:
    return _stripped(TYPES.of(content), xml)


def _citation(
    facts: dict[str, Any], sections: list[Section], record: bytes, at: int, end: int, xml: etree.XMLParser
) -> None:
    """Add what stands behind the article: related articles, MeSH headings, other abstracts."""
    begin, stop = _only(COMMENTS, record, at, end, at)
    facts["related"] = RELATED.of(record[begin:stop]) if begin >= 0 else []
    begin, stop = _only(HEADING_LIST, record, at, end, at)
    if begin >= 0 and (headings := HEADINGS.of(record[begin:stop])):
        facts["mesh"] = _stripped(headings, xml)
    if find(record, b"OtherAbstract", at, end) < 0:
        return
    others = list(OTHER_ABSTRACT.finditer(record, at, end))
    if 2 * len(others) != count(record, b"OtherAbstract", at, end):
        raise OddRecordError
    for other in others:
        _require_siblings(record, at, other.start())
        at = other.end()
        attributes = other[1].decode()
        kind = LANGUAGE_OF.search(attributes) or TYPE_OF.search(attributes)
        path = f"Other abstract ({_plain(kind[1], xml) if kind else 'unknown'})"
        _abstract(sections, other[2], path, xml)


def _pubmed_data(facts: dict[str, Any], record: bytes, at: int, xml: etree.XMLParser) -> None:
    """Add the article's ids and its references from what stands behind the citation."""
    end = _found(record, b"</PubmedData>", at, len(record))
    if RECORD_END.match(record, end) is None:
        raise OddRecordError
    references = find(record, b"<ReferenceList", at, end)
    begin, stop = _only(ID_LIST, record, 0, end if references < 0 else references, at)
    if begin >= 0:
        for kind, value in IDS.of(record[begin:stop]):
            if kind in ("doi", "pmc") and (id := _plain(value, xml).strip()):
                facts["doi" if kind == "doi" else "pmcid"] = id
    facts["cited"] = []
    if references >= 0:
        content, closed, rest = record[references:end].rpartition(b"</ReferenceList>")
        facts["cited"] = CITED.findall(content.decode())
        if (
            count(content, b"<ReferenceList") != 1 + len(NEXT_LIST.findall(content))
            or not closed
            or count(content, b"<ArticleId ") != count(content, b'<ArticleId IdType="')
            or count(content, b'IdType="pubmed"') != len(facts["cited"])
            or find(rest, b"<ArticleId") >= 0
        ):
            raise OddRecordError


def _doi(locations: bytes, xml: etree.XMLParser) -> str:
    """Return the last DOI among an article's electronic locations, which are all that may stand behind the title and the pages."""
    match = BEHIND_TITLE.fullmatch(locations)
    if match is None:
        raise OddRecordError
    locations_found = LOCATION.findall(match[1].decode())
    if len(locations_found) != match[1].count(b"</"):
        raise OddRecordError
    dois = [value for kind, valid, value in locations_found if kind == "doi" and valid != "N" and value]
    return _plain(dois[-1], xml).strip() if dois else ""


def _abstract(sections: list[Section], part: bytes, path: str, xml: etree.XMLParser) -> None:
    """Add a section for every `AbstractText`, under its label if it has one."""
    for attributes, text in TEXTS.of(part, COPYRIGHT):
        label = LABEL.search(attributes) if attributes else None
        if attributes and label is None and ("Label" in attributes or attributes[-1] == "/"):
            raise OddRecordError
        name = _plain(label[1], xml).strip() if label else ""
        if name and name.upper() != "UNLABELLED":
            sections.append((f"{path} / {name}", [name, _plain(text, xml)]))
        else:
            sections.append((path, [_plain(text, xml)]))


def _stripped(values: list[str], xml: etree.XMLParser) -> list[str]:
    """Return the texts of elements that have no children."""
    return [(_plain(value, xml) if "&" in value else value).strip() for value in values]


def _plain(content: str, xml: etree.XMLParser) -> str:
    """Return content without markup and entities."""
    if "<" not in content and "&" not in content:
        return content
    plain = content.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    if "<" in content or plain.count("&") != plain.count("&amp;"):  # markup, or characters by number or name
        return text_of(etree.fromstring(f"<t>{content}</t>".encode(), xml))
    return plain.replace("&amp;", "&")
