"""The reference lists of JATS articles, from their bytes: a third of an article, of which only the ids of what is cited are of use.

Cutting them out before the article is parsed saves a third of the parser's work. Where a list is not plainly written (another list inside,
a comment, a tag without its partner), it stays, and its references are read from the tree.
"""

import re
from collections.abc import Iterable, Iterator
from html import unescape

from biomlm.inputs.search import count, find

OPENING, CLOSING = b"<ref-list", b"</ref-list>"
PUB_ID = re.compile(r'<(?:pub-id|object-id)\s(?:[^<>]*?\s)?pub-id-type="([^"]*)"[^<>]*>([^<]*)<')
LINKED = re.compile(r"<ext-link\s([^<>]*)>")
LINK_TYPE, LINK_TO = re.compile(r'\bext-link-type="([^"]*)"'), re.compile(r'\bhref="([^"]*)"')
ID = re.compile(r'<(?:ref|element-citation|mixed-citation|citation|nlm-citation)\s(?:[^<>]*?\s)?id="([^"]+)"')
CITATION = re.compile(r"</(?:element-citation|mixed-citation|citation|nlm-citation)>")
ALTERNATIVES = "<citation-alternatives"
_NCBI = r"https?://(?:www\.)?ncbi\.nlm\.nih\.gov"
ADDRESSES = (  # of what a link leads to, where it does not say
    ("doi", re.compile(r"https?://(?:dx\.)?doi\.org/(10\.\d{4,}/\S+)", re.I)),
    ("pmid", re.compile(rf"(?:{_NCBI}/pubmed|https?://pubmed\.ncbi\.nlm\.nih\.gov)/(\d+)/?", re.I)),
    ("pmcid", re.compile(rf"(?:{_NCBI}/pmc|https?://pmc\.ncbi\.nlm\.nih\.gov)/articles/(PMC\d+)/?", re.I)),
)
PMID_TYPES, PMCID_TYPES = {"pmid", "pubmed"}, {"pmc", "pmcid"}


def cut(article: bytes) -> tuple[bytes, list[str]]:
    """Cut the reference lists out of an article and return both; the whole article and no list if one of them is odd."""
    rest, lists, at = [], [], 0
    while (begin := find(article, OPENING, at)) >= 0:
        closing = find(article, CLOSING, begin)
        end = closing + len(CLOSING)
        reference_list = article[begin:end]
        if closing < 0 or _is_odd(reference_list):
            return article, []
        try:
            lists.append(reference_list.decode())
        except UnicodeDecodeError:
            return article, []
        rest.append(article[at:begin])
        at = end
    return b"".join((*rest, article[at:])), lists


def _is_odd(reference_list: bytes) -> bool:
    tags = 2 * count(reference_list, b"</") + count(reference_list, b"/>") + count(reference_list, b"<?")
    strange = (find(reference_list, OPENING, 1), find(reference_list, b"<!"), find(reference_list, b"pub-id-type='"))
    return count(reference_list, b"<") != tags or max(strange) >= 0


def cited(lists: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the ids of every citation in the lists, see `ids`: a reference may have several, or one in two forms."""
    for reference_list in lists:
        for reference in reference_list.split("</ref>")[:-1]:
            for citation in [reference] if ALTERNATIVES in reference else CITATION.split(reference):
                pairs = PUB_ID.findall(citation)
                links = [linked(*_link(attributes)) for attributes in LINKED.findall(citation)]
                yield ids((kind, unescape(value) if "&" in value else value) for kind, value in (*pairs, *links))


def _link(attributes: str) -> tuple[str, str]:
    kind, to = LINK_TYPE.search(attributes), LINK_TO.search(attributes)
    return kind[1] if kind else "", to[1] if to else ""


def linked(kind: str, to: str) -> tuple[str, str]:
    """Return what a link leads to as `(pub-id-type, value)`; the type is empty where it is no article.

    Args:
        kind: The link's type: `doi`, `pmid`, `pmcid`, `uri`, …
        to: Its target.
    """
    for name, address in ADDRESSES:
        if match := address.fullmatch(to):
            return name, match[1]
    return (kind if kind in ("doi", *PMID_TYPES, *PMCID_TYPES) else ""), to


def reference_ids(lists: Iterable[str]) -> frozenset[str]:
    """Return the ids by which call-outs point into the lists."""
    return frozenset(id for reference_list in lists for id in ID.findall(reference_list))


def ids(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return `pmid`, `pmcid` (with its `PMC`) and `doi` (lower case), the first of each kind.

    Args:
        pairs: `(pub-id-type, value)`.
    """
    by_kind: dict[str, str] = {}
    for kind, text in pairs:
        if not (value := text.strip()):
            continue
        if kind in PMID_TYPES and value.isdecimal():
            by_kind.setdefault("pmid", str(int(value)))
        elif kind in PMCID_TYPES and (number := value.upper().removeprefix("PMC")).isdecimal():
            by_kind.setdefault("pmcid", f"PMC{int(number)}")
        elif kind == "doi":
            by_kind.setdefault("doi", value.lower())
    return by_kind
