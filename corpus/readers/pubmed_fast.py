"""The quick way through a PubMed record: step over its elements in the DTD's order, and parse nothing but the few that matter.

Nine tenths of a record are authors, dates and headings. Building a tree of them takes longer than all the rest of reading, so what is
not needed is stepped over with `bytes.find` (0.25 ns a byte), and only text with markup or entities goes to the XML parser. Each pattern
begins where the one before has ended. Wherever a record is not exactly as the NLM writes it (another order, an element within one of its
own name, a tag without its partner, a comment, CDATA, bytes that are not UTF-8), `scan` gives up and the record is read as a tree, which
is the definition of what is right; tests hold both to the same result, on records that were rearranged at random, too.
"""

import re
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
    ((?:<ELocationID\s[^<>]*>[^<]*</ELocationID>\s*)*)(<Abstract>)?""".encode(),
    re.X,
)
LOCATION = re.compile(r'<ELocationID EIdType="(\w+)"(?: ValidYN="([YN])")?>([^<]*)<')
BLANK = re.compile(r"\s*")
BEHIND_TEXTS = re.compile(
    r"\s*(?:<CopyrightInformation>[^<]*(?:<(?!/?(?:CopyrightInformation|AbstractText))[^<]*)*</CopyrightInformation>\s*)?"
)
BEHIND_ABSTRACT = re.compile(rb"\s*(?:<Affiliation>[^<]*</Affiliation>\s*)?(<AuthorList[\s>])?")
LANGUAGES = re.compile(rb"\s*((?:<Language>[^<]+</Language>\s*)+)")
LANGUAGE = re.compile(r"<Language>([^<]+)<")
VERNACULAR_TITLE = b"VernacularTitle"
CHILD = re.compile(rb"\s*<([A-Za-z]+)((?:\s[^<>/]*)?)>")
CITED = re.compile(r'<ArticleId IdType="pubmed">\s*([0-9]+)\s*</ArticleId>')
LABEL = re.compile(r'\sLabel="([^"\s]*(?: [^"\s]+)*)"')
LANGUAGE_OF = re.compile(r'\sLanguage="([^"]*)"')
TYPE_OF = re.compile(r'\sType="([^"]*)"')


class Items:
    """Read the items of a list, each of which stands right behind the one before.

    Args:
        name: Their element.
        attributes: Pattern of its attributes.
        content: Pattern of what it begins with.
        rest: Pattern of what stands behind that, or begins there.
    """

    def __init__(self, name: str, attributes: str, content: str, rest: str = ""):
        self.name, self.closing = name, f"</{name}>"
        self.item = re.compile(rf"{self.closing}\s*<{name}{attributes}>{content}(?=\s*{rest or self.closing})")

    def of(self, text: str, behind: re.Pattern[str] = BLANK) -> list[Any]:
        """Return what the groups of the patterns match in every item.

        Args:
            text: The list's content.
            behind: What may stand behind the last one.
        """
        items = self.item.findall(self.closing + text)  # so that all items begin alike: a text is found quickly
        last = text.rfind(self.closing) + len(self.closing) if items else 0
        if 2 * len(items) != text.count(self.name) or behind.fullmatch(text, last) is None:
            raise OddRecordError
        return items


ANY = r"(?:\s[^<>]*)?"
TYPES = Items("PublicationType", ANY, r"([^<]+)")
HEADINGS = Items(
    "MeshHeading", "", rf"\s*<DescriptorName{ANY}>([^<]+)</DescriptorName>", "<(?:/MeshHeading>|QualifierName[\\s>])"
)
RELATED = Items(
    "CommentsCorrections",
    r' RefType="(\w+)"',
    r'(?:\s*<RefSource>[^<]*</RefSource>)?(?:\s*<PMID(?:\sVersion="\d+")?>\s*([0-9]+)\s*</PMID>)?(?:\s*<Note>[^<]*</Note>)?',
)
IDS = Items("ArticleId", r' IdType="(\w+)"', r"([^<]*)")
TEXTS = Items("AbstractText", r"((?:\s[^<>]*)?)", r"([^<]*(?:<(?!/?AbstractText)[^<]*)*)")
_USUAL = (
    "MedlineJournalInfo ChemicalList CitationSubset CommentsCorrectionsList MeshHeadingList KeywordList OtherID History \
PublicationStatus ArticleIdList ReferenceList PublicationTypeList ArticleDate GrantList OtherAbstract CoiStatement"
)
CLOSING = {name: b"</%b>" % name for name in _USUAL.encode().split()}
SINGLE = frozenset(
    (
        b"PMID",
        b"DateRevised",
        b"Article",
        b"CommentsCorrectionsList",
        b"MeshHeadingList",
        b"ArticleIdList",
        b"ReferenceList",
    )
)


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
    end = _end(record, b"ArticleTitle", head.end())
    facts["sections"] = sections = [("Title", [_plain(record[head.end() : end].decode(), xml)])]
    at, locations = _article(facts, sections, record, end + len(b"</ArticleTitle>"), xml)
    at = _citation(facts, sections, record, at, xml)
    facts["cited"] = []
    if wrapped:
        at = _pubmed_data(facts, record, _skip(record, b"<PubmedData>", at), xml)
        at = _skip(record, b"</PubmedArticle>", at)
    elif find(record, b"ArticleIdList") >= 0:
        raise OddRecordError
    if at != len(record):
        raise OddRecordError
    if "doi" not in facts:
        for kind, valid, value in locations:
            if kind == "doi" and valid != "N" and value:
                facts["doi"] = _plain(value, xml).strip()
    return facts


def _end(record: bytes, name: bytes, at: int) -> int:
    """Return where the content of an element ends that begins at `at`."""
    end = find(record, b"</%b>" % name, at)
    if end < 0:
        raise OddRecordError
    return end


def _skip(record: bytes, tag: bytes, at: int) -> int:
    """Return the place behind a tag that stands next, white space aside."""
    if not record.startswith(tag, at):
        begin, at = at, find(record, tag, at)
        if at < 0 or not record[begin:at].isspace():
            raise OddRecordError
    return at + len(tag)


def _children(record: bytes, at: int) -> tuple[list[tuple[bytes, bytes, int, int]], int]:
    """Step over the elements that stand next; return name, attributes, begin and end of each, and the place behind the last."""
    children = []
    while match := CHILD.match(record, at):
        name, attributes = match.groups()
        closing = CLOSING.get(name) or b"</%b>" % name
        begin = match.end()
        end = find(record, closing, begin)
        if end < 0:
            raise OddRecordError
        children.append((name, attributes, begin, end))
        at = end + len(closing)
    return children, at


def _article(
    facts: dict[str, Any], sections: list[Section], record: bytes, at: int, xml: etree.XMLParser
) -> tuple[int, list[tuple[str, str, str]]]:
    """Add abstract, languages, publication types; return the place behind `</Article>`, and the article's electronic locations."""
    behind_title = BEHIND_TITLE.match(record, at)
    assert behind_title is not None  # it may match nothing
    locations: list[tuple[str, str, str]] = []
    if behind_title[1]:
        locations = LOCATION.findall(behind_title[1].decode())
        if len(locations) != behind_title[1].count(b"</"):
            raise OddRecordError
    at, abstract = behind_title.end(), ""
    if behind_title[2]:
        end = _end(record, b"Abstract", at)
        abstract, at = record[at:end].decode(), end + len(b"</Abstract>")
    behind_abstract = BEHIND_ABSTRACT.match(record, at)
    assert behind_abstract is not None  # nor this
    at = behind_abstract.end()
    if behind_abstract[1]:
        at = _end(record, b"AuthorList", at) + len(b"</AuthorList>")
    languages = LANGUAGES.match(record, at)
    if languages is None:
        raise OddRecordError
    _add(facts, "languages", LANGUAGE.findall(languages[1].decode()), xml)
    children, at = _children(record, languages.end())
    vernacular, kinds = "", list[str]()
    for name, _, begin, end in children:
        if name == b"PublicationTypeList":
            kinds += TYPES.of(record[begin:end].decode())
        elif name == VERNACULAR_TITLE and not vernacular:
            vernacular = record[begin:end].decode()
            sections.append(("Vernacular title", [_plain(vernacular, xml)]))
        elif name not in (b"GrantList", b"DataBankList", b"ArticleDate"):
            raise OddRecordError
    _add(facts, "publication_types", kinds, xml)
    if abstract:
        _abstract(sections, abstract, "Abstract", xml)
    return _skip(record, b"</Article>", at), locations


def _citation(facts: dict[str, Any], sections: list[Section], record: bytes, at: int, xml: etree.XMLParser) -> int:
    """Add what stands behind the article: related articles, MeSH headings, other abstracts; return the place behind the citation."""
    children, at = _children(record, at)
    facts["related"] = []
    for name, attributes, begin, end in children:
        if name == b"MeshHeadingList" and "mesh" not in facts:
            mesh = HEADINGS.of(record[begin:end].decode())
            if count(record[begin:end], b"<DescriptorName") != len(mesh):
                raise OddRecordError
            _add(facts, "mesh", mesh, xml)
        elif name == b"CommentsCorrectionsList" and not facts["related"]:
            facts["related"] = RELATED.of(record[begin:end].decode())
        elif name == b"OtherAbstract":
            written_as = attributes.decode()
            kind = LANGUAGE_OF.search(written_as) or TYPE_OF.search(written_as)
            path = f"Other abstract ({_plain(kind[1], xml) if kind else 'unknown'})"
            _abstract(sections, record[begin:end].decode(), path, xml)
        elif name in SINGLE:
            raise OddRecordError
    return _skip(record, b"</MedlineCitation>", at)


def _pubmed_data(facts: dict[str, Any], record: bytes, at: int, xml: etree.XMLParser) -> int:
    """Add the article's ids and its references; return the place behind `PubmedData`."""
    children, at = _children(record, at)
    for name, _, begin, end in children:
        content = record[begin:end] if name in SINGLE else b""
        if name == b"ArticleIdList":
            for kind, value in IDS.of(content.decode()):
                if kind in ("doi", "pmc") and (id := _plain(value, xml).strip()):
                    facts["doi" if kind == "doi" else "pmcid"] = id
        elif name == b"ReferenceList":
            cited = CITED.findall(content.decode())
            if (
                find(content, b"<ReferenceList") >= 0
                or count(content, b"<ArticleId ") != count(content, b'<ArticleId IdType="')
                or count(content, b'IdType="pubmed"') != len(cited)
            ):
                raise OddRecordError
            facts["cited"] += cited
        elif name not in (b"History", b"PublicationStatus"):
            raise OddRecordError
    return _skip(record, b"</PubmedData>", at)


def _abstract(sections: list[Section], part: str, path: str, xml: etree.XMLParser) -> None:
    """Add a section for every `AbstractText`, under its label if it has one."""
    for attributes, text in TEXTS.of(part, BEHIND_TEXTS):
        label = LABEL.search(attributes) if attributes else None
        if attributes and label is None and ("Label" in attributes or attributes[-1] == "/"):
            raise OddRecordError
        name = _plain(label[1], xml).strip() if label else ""
        if name and name.upper() != "UNLABELLED":
            sections.append((f"{path} / {name}", [name, _plain(text, xml)]))
        else:
            sections.append((path, [_plain(text, xml)]))


def _add(facts: dict[str, Any], name: str, values: list[str], xml: etree.XMLParser) -> None:
    """Add the texts of elements that have no children, if there are any."""
    if values:
        facts[name] = [(_plain(value, xml) if "&" in value else value).strip() for value in values]


def _plain(content: str, xml: etree.XMLParser) -> str:
    """Return content without markup and entities."""
    if "<" not in content and "&" not in content:
        return content
    plain = content.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    if "<" in content or plain.count("&") != plain.count("&amp;"):  # markup, or characters by number or name
        return text_of(etree.fromstring(f"<t>{content}</t>".encode(), xml))
    return plain.replace("&amp;", "&")
