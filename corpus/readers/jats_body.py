"""The running text of a JATS article: every paragraph in reading order under the path of its section titles."""

from collections.abc import Iterator

from lxml import etree

from biomlm.corpus.readers.boilerplate import is_notice
from biomlm.corpus.readers.jats_callouts import CLOSE, OPEN, without_callouts
from biomlm.inputs.xml import text_of

Element = etree._Element
Section = tuple[str, list[str]]

# Inside a paragraph these are blocks of their own: the paragraph is cut around them.
_BLOCKS = """
p sec list def-list disp-quote boxed-text statement verse-group speech fig fig-group table-wrap table-wrap-group
disp-formula disp-formula-group supplementary-material media preformat code array chem-struct-wrap graphic
"""
BLOCKS = frozenset(_BLOCKS.split())
SECTIONS = frozenset(("sec", "app", "boxed-text", "statement"))
PARAGRAPHS = frozenset(("p", "disp-formula"))
HEADINGS = frozenset(("title", "label", "caption", "subtitle"))
_LEFT_OUT = """
xref-group ref-list fn fn-group table-wrap-foot object-id alt-text long-desc permissions attrib graphic inline-graphic
sec-meta email uri-list ref citation element-citation mixed-citation nlm-citation processing-meta related-article
"""
LEFT_OUT = frozenset(_LEFT_OUT.split())
CALLOUTS = frozenset(("bibr", "fn", "table-fn", "aff", "corresp", "author-notes"))
NO_REFERENCES: frozenset[str] = frozenset()
TRANSLATION = "translation"
FORMULAS = frozenset(("disp-formula", "inline-formula", "alternatives"))


def body_sections(root: Element, tables: bool, references: frozenset[str] = NO_REFERENCES) -> Iterator[Section]:
    """Yield title, abstracts, body, appendices, sub-articles and floating captions of an `article`.

    Args:
        root: The article.
        tables: Include the cells of tables, a row as a block.
        references: Ids in the reference list, for call-outs that do not say what they are.
    """
    for path, blocks in _sections(root, Walker(tables, references)):
        yield path, [block for block in blocks if not is_notice(block)]


def _sections(root: Element, walker: "Walker") -> Iterator[Section]:
    yield from _front(root, walker)
    for part in root:
        if part.tag == "body":
            yield from walker.children(part, ())
        elif part.tag == "back":
            for element in part:
                if element.tag in ("app-group", "app", "sec"):
                    yield from walker.section(element, ())
        elif part.tag == "floats-group":
            yield from walker.children(part, ("Floats",))
        elif part.tag in ("sub-article", "response") and part.get("article-type") != TRANSLATION:
            for path, blocks in _sections(part, walker):
                yield f"{part.get('article-type', 'sub-article')} / {path}", blocks


def selected_sections(
    root: Element, xpath: str, tables: bool, references: frozenset[str] = NO_REFERENCES
) -> Iterator[Section]:
    """Yield what an XPath selects in an article, in document order, each element as a section named after its tag and number."""
    walker = Walker(tables, references)
    selected = root.xpath(xpath)
    elements = (
        [element for element in selected if isinstance(element, etree._Element)] if isinstance(selected, list) else []
    )
    for number, element in enumerate(elements, start=1):
        blocks = [block for _, blocks in walker.block(element, ()) for block in blocks]
        yield f"{element.tag} {number}", blocks


def _front(root: Element, walker: "Walker") -> Iterator[Section]:
    """Yield title and abstracts of every kind."""
    meta = root.find("front/article-meta")
    if meta is None:
        meta = root.find("front-stub")
    if meta is not None:
        title = meta.find("title-group/article-title")
        if title is not None:
            yield "Title", [walker.inline(part) for part in (title, *meta.iterfind("title-group/subtitle"))]
        for abstract in meta.iterfind("abstract"):
            yield from walker.titled(abstract, (_abstract_name(abstract),))
        for abstract in meta.iterfind("trans-abstract"):
            language = abstract.get("{http://www.w3.org/XML/1998/namespace}lang", "translated")
            yield from walker.titled(abstract, (f"Abstract ({language})",))


def _abstract_name(abstract: Element) -> str:
    kind = abstract.get("abstract-type")
    return f"Abstract ({kind})" if kind else "Abstract"


class Walker:
    """Walk the block structure of an article and yield `(path, blocks)`.

    Args:
        tables: Include the cells of tables.
        references: Ids in the reference list.
    """

    def __init__(self, tables: bool, references: frozenset[str] = NO_REFERENCES):
        self.tables, self.references = tables, references

    def titled(self, element: Element, path: tuple[str, ...]) -> Iterator[Section]:
        """Yield an element whose path is given and whose own title, if any, is a heading."""
        title = element.find("title")
        if title is None:
            title = element.find("label")
        heading = self.inline(title) if title is not None else ""
        if heading.strip():
            yield " / ".join(path), [heading]
        yield from self.children(element, path)

    def section(self, element: Element, path: tuple[str, ...]) -> Iterator[Section]:
        """Yield a `sec` or another titled part: its title joins the path; label and title are its first block."""
        title = element.find("title")
        if title is None:
            title = element.find("caption/title")
        name = " ".join(self.inline(title).split()) if title is not None else ""
        inner = (*path, name) if name else path
        if heading := " ".join(part for part in (self.label(element), name) if part):
            yield " / ".join(inner), [heading]
        caption = element.find("caption")
        if caption is not None:
            yield from self.children(caption, inner)
        yield from self.children(element, inner)

    def label(self, element: Element) -> str:
        """Return an element's label: a number, a letter, `Figure 1`."""
        label = element.find("label")
        return " ".join(self.inline(label).split()) if label is not None else ""

    def item(self, element: Element, path: tuple[str, ...]) -> Iterator[Section]:
        """Yield a list item or a definition: a label stands before the first words."""
        label = self.label(element)
        for name, blocks in self.children(element, path):
            if label and any(block.strip() for block in blocks):
                yield name, [f"{label} {blocks[0].lstrip()}", *blocks[1:]]
                label = ""
            else:
                yield name, blocks

    def children(self, element: Element, path: tuple[str, ...]) -> Iterator[Section]:
        """Yield everything in an element but its title and label."""
        for child in element:
            if child.tag not in HEADINGS:
                yield from self.block(child, path)

    def block(self, element: Element, path: tuple[str, ...]) -> Iterator[Section]:
        """Yield the sections of one block of any kind."""
        tag = element.tag
        if tag in LEFT_OUT or not isinstance(tag, str):
            return
        if tag == "list-item":
            yield from self.item(element, path)
        elif tag in (
            "fig",
            "table-wrap",
            "supplementary-material",
            "media",
            "fig-group",
            "table-wrap-group",
            "chem-struct-wrap",
        ):
            yield from self.captioned(element, path)
        elif tag in PARAGRAPHS or _has_text(element):
            yield from self.paragraph(element, path)
        elif tag in SECTIONS or element.find("title") is not None or element.find("label") is not None:
            yield from self.section(element, path)
        else:
            yield from self.children(element, path)

    def captioned(self, element: Element, path: tuple[str, ...]) -> Iterator[Section]:
        """Yield a figure, a table or the like: label and caption, and whatever stands inside; cells by option."""
        name = self.label(element)
        inner = (*path, name or str(element.tag))
        caption = element.find("caption")
        heading = [name] if name else []
        if caption is not None:
            title = caption.find("title")
            if title is not None:
                heading.append(self.inline(title))
        if heading:
            yield " / ".join(inner), [" ".join(heading)]
        if caption is not None:
            yield from self.children(caption, inner)
        for child in element:
            if child.tag in HEADINGS:
                continue
            if child.tag in ("table", "alternatives", "oasis"):
                if self.tables:
                    yield " / ".join(inner), [self.row(row) for row in child.iter("tr")]
            else:
                yield from self.block(child, inner)

    def row(self, row: Element) -> str:
        """Join the cells of a table row with vertical bars."""
        return " | ".join(" ".join(self.inline(cell).split()) for cell in row)

    def paragraph(self, element: Element, path: tuple[str, ...]) -> Iterator[Section]:
        """Yield running text; block children cut it in two."""
        name = " / ".join(path)
        parts: list[str] = []
        if element.tag == "disp-formula":
            yield name, [formula(element)]
            return
        if element.text:
            parts.append(element.text)
        for child in element:
            if child.tag in BLOCKS:
                yield name, [without_callouts("".join(parts))]
                parts = []
                yield from self.block(child, path)
            else:
                self.gather(child, parts)
            if child.tail:
                parts.append(child.tail)
        yield name, [without_callouts("".join(parts))]

    def inline(self, element: Element) -> str:
        """Return the text inside an element as one line, without call-outs."""
        parts = [element.text or ""]
        for child in element:
            self.gather(child, parts)
            parts.append(child.tail or "")
        return without_callouts("".join(parts))

    def gather(self, element: Element, parts: list[str]) -> None:
        """Append the text of an inline element, not its tail."""
        tag = element.tag
        if tag == "email":
            parts += (OPEN, CLOSE)  # with brackets that hold nothing else
        if tag in LEFT_OUT or not isinstance(tag, str):
            return
        if tag in FORMULAS:
            parts.append(formula(element))
        elif tag == "xref" and (
            element.get("ref-type") in CALLOUTS or not self.references.isdisjoint(element.get("rid", "").split())
        ):
            parts += (OPEN, text_of(element), CLOSE)
        elif tag == "break":
            parts.append(" ")
        else:
            if element.text:
                parts.append(element.text)
            for child in element:
                self.gather(child, parts)
                if child.tail:
                    parts.append(child.tail)
            if tag in BLOCKS:
                parts.append(" ")


def _has_text(element: Element) -> bool:
    """Return whether text stands in the element itself, not only in its children."""
    return bool((element.text or "").strip()) or any((child.tail or "").strip() for child in element)


def formula(element: Element) -> str:
    """Write a formula as text: MathML's tokens, else TeX without its preamble, else whatever text there is."""
    for math in element.iter("{http://www.w3.org/1998/Math/MathML}math", "math"):
        return _spoken(math)
    for tex in element.iter("tex-math"):
        source = tex.text or ""
        formula, ended, _ = source.partition(r"\begin{document}")[2].partition(r"\end{document}")
        return (formula if ended else source).strip().strip("$")
    return text_of(element)


def _spoken(math: Element) -> str:
    """Join MathML's tokens in order: single letters and digits run together (`x2`), words, numbers and table cells stand apart."""
    parts: list[str] = []
    for token in math.iter(etree.Element):
        word = " ".join((token.text or "").split()) if not len(token) else ""
        if not word and (token.text or str(token.tag).rpartition("}")[2] in ("mtd", "mspace", "mtr")):
            parts.append(" ")
        if word:
            apart = len(word) > 1 and word[0].isalnum()
            parts.append(f" {word} " if apart else word)
    return " ".join("".join(parts).split())
