"""The reference lists of JATS articles, from their bytes: a third of an article, of which only the ids of what is cited are of use.

Cutting them out before the article is parsed saves a third of the parser's work. Where a list is not plainly written (another list inside,
a comment, a tag without its partner), it stays, and its references are read from the tree.
"""

import re
from collections.abc import Iterable, Iterator
from html import unescape

from biomlm.inputs.search import count, find

OPENING, CLOSING = b"<ref-list", b"</ref-list>"
PUB_ID = re.compile(r'<pub-id\s(?:[^<>]*?\s)?pub-id-type="([^"]*)"[^<>]*>([^<]*)<')
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
    """Yield the ids of every reference in the lists, see `ids`."""
    for reference_list in lists:
        for reference in reference_list.split("</ref>")[:-1]:
            yield ids((kind, unescape(value) if "&" in value else value) for kind, value in PUB_ID.findall(reference))


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
