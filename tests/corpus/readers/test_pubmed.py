"""PubMed: what is read, the scanner against the tree, versions and deletions, exports, damage."""

import gzip
import io
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from biomlm.corpus.readers import pubmed_fast
from biomlm.corpus.readers.pubmed import RECORDS, PubMedReader, facts
from biomlm.corpus.readers.pubmed_fast import scan
from biomlm.corpus.text.document import DROPPED
from biomlm.inputs.xml import Cutter, parse, parser

FULL = """<PubmedArticle><MedlineCitation Status="MEDLINE" Owner="NLM"><PMID Version="2">12</PMID><DateRevised><Year>2019</Year>
<Month>02</Month><Day>08</Day></DateRevised><Article PubModel="Print"><Journal><JournalIssue><PubDate><Year>1975</Year>
<Month>Aug</Month><Day>15</Day></PubDate>
</JournalIssue><Title>Biochem &amp; Med</Title></Journal><ArticleTitle>Effects of <i>E. coli</i> on CO<sub>2</sub>.</ArticleTitle>
<ELocationID EIdType="doi" ValidYN="Y">10.1/Early</ELocationID>
<Abstract><AbstractText Label="AIM" NlmCategory="OBJECTIVE">To test &lt;5 &#956;g.</AbstractText><AbstractText Label="RESULTS">It   works.
</AbstractText><AbstractText>Unlabelled end.</AbstractText><CopyrightInformation>Copyright 1975.</CopyrightInformation></Abstract>
<AuthorList><Author><LastName>Smith</LastName></Author></AuthorList><Language>eng</Language><Language>fre</Language>
<PublicationTypeList><PublicationType UI="D016428">Journal Article</PublicationType><PublicationType UI="x">Review</PublicationType>
</PublicationTypeList><VernacularTitle>Effets</VernacularTitle></Article><MeshHeadingList><MeshHeading><DescriptorName UI="D1"
MajorTopicYN="N">Mice</DescriptorName><QualifierName UI="q">genetics</QualifierName></MeshHeading></MeshHeadingList>
<OtherAbstract Type="Publisher" Language="fre"><AbstractText>Un essai.</AbstractText></OtherAbstract><CommentsCorrectionsList>
<CommentsCorrections RefType="Cites"><RefSource>J</RefSource><PMID Version="1">77</PMID></CommentsCorrections>
<CommentsCorrections RefType="RetractionIn"><RefSource>K</RefSource><PMID Version="1">78</PMID></CommentsCorrections>
</CommentsCorrectionsList></MedlineCitation><PubmedData><ArticleIdList><ArticleId IdType="pubmed">12</ArticleId>
<ArticleId IdType="doi">10.1/ABC</ArticleId><ArticleId IdType="pmc">PMC5</ArticleId></ArticleIdList><ReferenceList><Reference>
<Citation>x</Citation><ArticleIdList><ArticleId IdType="pubmed">99</ArticleId><ArticleId IdType="doi">10.9/other</ArticleId>
</ArticleIdList></Reference></ReferenceList></PubmedData></PubmedArticle>"""


def read(tmp_path: Path, data: bytes, name: str = "x.xml") -> list[Document]:
    (tmp_path / name).write_bytes(data)
    return list(PubMedReader(str(tmp_path)).read_file(name))


def test_everything_in_a_citation(tmp_path: Path, make: Any) -> None:
    (document,) = read(tmp_path, make.citations(FULL))
    meta = document.metadata
    assert document.id == "pmid:12"
    assert document.text == (
        "Effects of E. coli on CO2.\n\nEffets\n\nAIM\nTo test <5 μg.\n\nRESULTS\nIt works.\n\nUnlabelled end.\n\nUn essai."
    )
    assert [document.text[a:b].split("\n")[0] + "|" + path for a, b, path in meta["sections"]] == [
        "Effects of E. coli on CO2.|Title",
        "Effets|Vernacular title",
        "AIM|Abstract / AIM",
        "RESULTS|Abstract / RESULTS",
        "Unlabelled end.|Abstract",
        "Un essai.|Other abstract (fre)",
    ]
    assert meta["links"] == ["pmid:99", "pmid:77"]
    assert (meta["pmid"], meta["pmcid"], meta["doi"], meta["year"]) == ("12", "PMC5", "10.1/abc", 1975)
    assert meta["date"] == "1975-08-15"
    assert meta["journal"] == "Biochem & Med"
    assert meta["languages"] == ["eng", "fre"]
    assert meta["mesh"] == ["Mice"]
    assert meta["publication_types"] == ["Journal Article", "Review"]
    assert meta["retracted"]


@pytest.mark.parametrize("record", [FULL, FULL.replace("<Article ", "<!-- x --><Article ")], ids=["plain", "comment"])
def test_scanner_and_tree_agree_on_a_full_record(record: str) -> None:
    found = scan(record.encode(), parser())
    tree = parse(record.encode(), parser())
    assert tree is not None
    assert found == (facts(tree) if "<!--" not in record else None)


def test_without_stringzilla_everything_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found = scan(FULL.encode(), parser())
    monkeypatch.setattr(pubmed_fast, "find", bytes.find)
    assert scan(FULL.encode(), parser()) == found is not None


@pytest.mark.parametrize(
    ("content", "plain"),
    [
        ("p &lt; 0.05 &amp;amp; &quot;x&quot;", 'p < 0.05 &amp; "x"'),
        ("&amp;lt; &#956;g &#x3b1;", "&lt; μg α"),
        ("H<sub>2</sub>O &amp; <i>E. coli</i>", "H2O & E. coli"),
        ("a > b", "a > b"),
    ],
)
def test_scanner_reads_markup_and_entities_as_the_tree_does(content: str, plain: str) -> None:
    record = FULL.replace("It   works.", content).encode()
    tree = parse(record, parser())
    assert tree is not None
    found = scan(record, parser())
    assert found == facts(tree)
    assert found is not None
    assert ("Abstract / RESULTS", ["RESULTS", f"{plain}\n"]) in found["sections"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("It   works.", "A & B"),
        ("It   works.", "an &unknown; one"),
        ("It   works.", "a <i>tag without its end"),
        ("<AbstractText>Unlabelled", "<AbstractText/><AbstractText>Unlabelled"),
        ("</VernacularTitle>", ""),
        ("<Language>eng</Language><Language>fre</Language>", ""),
        ("<OtherAbstract ", "<OtherAbstrakt "),
        ("It   works.", "AbstractText"),
    ],
)
def test_scanner_hands_over_what_is_odd(old: str, new: str) -> None:
    assert old in FULL
    record = FULL.replace(old, new).encode()
    tree = parse(record, parser())
    assert scan(record, parser()) in (None, tree is not None and facts(tree))


@st.composite
def rearranged(draw: st.DrawFn) -> bytes:
    """The full record after some of: two elements exchanged, one moved, copied, put into itself, taken out, renamed, a comment set in."""
    root = etree.fromstring(FULL)
    for _ in range(draw(st.integers(1, 3))):
        elements = [element for element in root.iter(etree.Element) if element is not root]
        if not elements:  # all was taken out
            break
        element = draw(st.sampled_from(elements))
        parent = element.getparent()
        other = draw(st.sampled_from([e for e in elements if e not in set(element.iter())] or [root]))
        copy = deepcopy(element)
        copy.tail = None
        match draw(st.sampled_from(["exchange", "move", "copy", "nest", "remove", "rename", "comment"])):
            case "exchange":
                siblings = list(parent)
                at, to = parent.index(element), draw(st.integers(0, len(siblings) - 1))
                siblings[at], siblings[to] = siblings[to], siblings[at]
                parent[:] = siblings
            case "move":
                parent.remove(element)
                other.insert(draw(st.integers(0, len(other))), copy)
            case "copy":
                other.insert(draw(st.integers(0, len(other))), copy)
            case "nest":
                element.insert(draw(st.integers(0, len(element))), copy)
            case "remove":
                parent.remove(element)
            case "rename":
                element.tag = other.tag
            case "comment":
                parent.insert(parent.index(element), etree.Comment("<PMID>1</PMID>"))
    return etree.tostring(root, encoding="utf-8")


def require_same(record: bytes) -> bool:
    """Hold the scanner to the tree; return whether it did not give up."""
    scanned = scan(record, parser())
    if scanned is not None:
        tree = parse(record, parser())
        assert tree is not None
        assert scanned == facts(tree)
    return scanned is not None


@settings(max_examples=100)
@given(rearranged())
def test_scanner_gives_what_the_tree_gives_or_gives_up(record: bytes) -> None:
    require_same(record)


@pytest.mark.slow
@settings(max_examples=5000)
@given(rearranged())
def test_scanner_gives_what_the_tree_gives_or_gives_up_many_times(record: bytes) -> None:
    require_same(record)


@pytest.mark.parametrize(
    ("old", "new"),
    [  # in the order of the first release: another value came out of each, and nobody was told
        ("<Title>Biochem &amp; Med</Title></Journal>", "<Title>Biochem <i>A</i> Med</Title></Journal>"),
        ("<MeshHeading>", "<MeshHeading><MeshHeading><DescriptorName UI='D2'>Rats</DescriptorName></MeshHeading>"),
        ("<RefSource>K</RefSource>", "<RefSource><PMID>9</PMID></RefSource>"),
        ('<ArticleIdList><ArticleId IdType="pubmed">12</ArticleId>', "<ObjectList/><ArticleIdList>"),
        ("<AuthorList>", "<AuthorList><Language>ger</Language>"),
        ("<Language>eng</Language>", "<Language>eng<x/></Language>"),
    ],
)
def test_scanner_does_not_mistake_one_element_for_another(old: str, new: str) -> None:
    assert old in FULL
    require_same(FULL.replace(old, new).encode())


def test_scanner_never_hides_damage(make: Any) -> None:
    """Whatever single byte of markup is lost: the scanner gives what the tree gives, or hands over, or had no use for that part."""
    rng = random.Random(5)
    whole = scan(FULL.encode(), parser())
    assert whole is not None
    marks = [i for i, c in enumerate(FULL) if c in "<>/"]
    for at in rng.sample(marks, 150):
        broken = (FULL[:at] + FULL[at + 1 :]).encode()
        found = scan(broken, parser())
        if found is not None and found["sections"] != whole["sections"]:
            tree = parse(broken, parser())
            assert tree is not None, f"byte {at}: text changed in an ill-formed record, and nobody noticed"
            assert facts(tree)["sections"] == found["sections"]  # type: ignore[index]


@pytest.mark.shared
def test_scanner_and_tree_agree_on_every_real_record(shared: Path) -> None:
    seen = handed_over = 0
    for path in sorted((shared / "pubmed").glob("*.xml*")):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for piece in Cutter(*RECORDS).cut(io.BytesIO(data)):
            if piece.tag in ("PubmedArticle", "MedlineCitation"):
                tree = parse(piece.data, parser())
                assert tree is not None
                found = scan(piece.data, parser())
                assert found in (None, facts(tree)), f"{path.name}, byte {piece.at}"
                seen, handed_over = seen + 1, handed_over + (found is None)
    assert seen == 1828
    assert handed_over <= 4


@pytest.mark.parametrize(
    "wrapped",
    [
        "<MedlineCitationSet>{}</MedlineCitationSet>",
        "<RAW_DATA><x/>{}</RAW_DATA>",
        "{}",
    ],
)
def test_any_root_will_do(wrapped: str, tmp_path: Path) -> None:
    citation = FULL[FULL.index("<MedlineCitation ") : FULL.index("<PubmedData>")]
    (document,) = read(tmp_path, wrapped.format(citation).encode())
    assert document.id == "pmid:12"
    assert document.metadata["links"] == ["pmid:77"]


def test_book_articles(tmp_path: Path) -> None:
    book = """<PubmedBookArticle><BookDocument><PMID Version="1">20301295</PMID><Book><BookTitle>GeneReviews</BookTitle></Book>
    <ArticleTitle>A <b>syndrome</b></ArticleTitle><Abstract><AbstractText Label="CLINICAL">Features.</AbstractText></Abstract>
    </BookDocument></PubmedBookArticle>"""
    (document,) = read(tmp_path, f"<PubmedArticleSet>{book}</PubmedArticleSet>".encode())
    assert document.text == "A syndrome\n\nCLINICAL\nFeatures."


def test_one_damaged_record_costs_only_itself(tmp_path: Path, make: Any) -> None:
    records = [make.plain(i) for i in range(1, 8)]
    records[1] = records[1].replace("</AbstractText>", "")
    records[3] = records[3].replace("</PubmedArticle>", "")
    records[5] = records[5].replace("<PMID", "<PMIX").replace("</PMID", "</PMIX")
    found = read(tmp_path, make.citations(*records))
    kept = [d.id for d in found if DROPPED not in d.metadata]
    assert kept == ["pmid:1", "pmid:3", "pmid:5", "pmid:7"]
    problems = [d.metadata["problem"] for d in found if DROPPED in d.metadata]
    assert ["ill-formed XML" in problems[0], "without its end" in problems[1], "no PMID" in problems[2]] == [True] * 3
    assert len(problems) == 3
    assert all("byte" in problem and "mice" not in problem for problem in problems)


def test_a_truncated_gzip_keeps_what_came_before(tmp_path: Path, make: Any) -> None:
    whole = gzip.compress(make.citations(*(make.plain(i) for i in range(1, 400))))
    found = read(tmp_path, whole[: len(whole) * 2 // 3], "x.xml.gz")
    assert len(found) > 200
    assert [d.id for d in found[:-1]] == [f"pmid:{i}" for i in range(1, len(found))]
    assert "truncated" in found[-1].metadata["problem"]
    broken = bytearray(whole)
    broken[len(whole) // 2 : len(whole) // 2 + 40] = bytes(40)
    found = read(tmp_path, bytes(broken), "y.xml.gz")
    assert sum(DROPPED in d.metadata for d in found) >= 1
    assert len(found) > 100


@pytest.mark.parametrize(
    ("declared", "used"), [("iso-8859-1", "iso-8859-1"), ("iso-8859-1", "utf-8"), ("utf-8", "cp1252")]
)
def test_encodings_right_and_wrong(declared: str, used: str, tmp_path: Path, make: Any) -> None:
    text = make.record(1, "Café", "<AbstractText>naïve Zürich patients were treated.</AbstractText>")
    data = f'<?xml version="1.0" encoding="{declared}"?><PubmedArticleSet>{text}</PubmedArticleSet>'.encode(used)
    (document,) = read(tmp_path, data)
    assert document.text.startswith("Café\n\nnaïve Zürich")


def test_entities_are_neither_expanded_nor_fetched(tmp_path: Path, make: Any) -> None:
    (tmp_path / "secret.txt").write_text("the secret")
    dtd = f"""<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
    <!ENTITY out SYSTEM "file://{tmp_path}/secret.txt">]>"""
    bomb = make.record(1, "Bomb &b;", "<AbstractText>x</AbstractText>")
    leak = make.record(2, "Leak &out;", "<AbstractText>x</AbstractText>")
    named = make.record(3, "Alpha &alpha; and &lt;", "<AbstractText>The &beta; chain &mdash; one.</AbstractText>")
    found = read(
        tmp_path, f"<?xml version='1.0'?>{dtd}<PubmedArticleSet>{bomb}{leak}{named}</PubmedArticleSet>".encode()
    )
    assert [DROPPED in d.metadata for d in found] == [True, True, False]
    assert found[2].text == "Alpha α and <\n\nThe β chain — one."


MEDLINE = """
PMID- 123
OWN - NLM
LR  - 20190108
TI  - A title that goes on
      in a second line.
DP  - 1998 Dec
JT  - Journal of Tests
AB  - BACKGROUND: Something.
      RESULTS: More of it.
LA  - eng
PT  - Journal Article
MH  - *Mice/genetics
PMC - PMC77
AID - 10.1000/XYZ [doi]
RIN - J Tests. 2000. PMID: 456

PMID- 124
TI  - Another.
AB  - Short abstract.
"""


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_medline_text_exports(ending: str, tmp_path: Path) -> None:
    first, second = read(tmp_path, MEDLINE.replace("\n", ending).encode(), "export.txt")
    assert first.id == "pmid:123"
    assert first.text == "A title that goes on in a second line.\n\nBACKGROUND: Something. RESULTS: More of it."
    assert first.metadata["doi"] == "10.1000/xyz"
    assert first.metadata["pmcid"] == "PMC77"
    assert first.metadata["date"] == "1998-12"
    assert first.metadata["retracted"]
    assert first.metadata["mesh"] == ["Mice"]
    assert second.text == "Another.\n\nShort abstract."


@pytest.mark.shared
def test_every_abstract_that_an_independent_script_finds(shared: Path) -> None:
    """All text nodes of titles and abstracts, by a tree of the whole file: at least 99.5% of the words are in our documents."""
    from collections import Counter

    from lxml import etree

    for path in sorted((shared / "pubmed").glob("*.xml*")):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        tree = etree.parse(io.BytesIO(data))
        wanted: Counter[str] = Counter()
        for element in tree.iter("ArticleTitle", "VernacularTitle", "AbstractText"):
            wanted.update("".join(element.itertext()).split())  # type: ignore[arg-type]
        found: Counter[str] = Counter()
        for document in PubMedReader(str(path.parent)).read_file(path.name):
            found.update(document.text.split())
        missing = wanted - found
        assert sum(missing.values()) <= 0.005 * sum(wanted.values()), f"{path.name}: {missing.most_common(5)}"


def test_exports_in_cp1252_are_read_and_others_are_damage(tmp_path: Path) -> None:
    data = (
        "PMID- 1\nTI  - Naïve café\n\nPMID- 2\nTI  - Plain\n\n".encode("cp1252")
        + b"PMID- 3\nTI  - caf\x81\n\nPMID- 4\nTI  - Last\n"
    )
    (tmp_path / "x.nbib").write_bytes(data)
    found = list(PubMedReader(str(tmp_path)).read_file("x.nbib"))
    assert [d.text for d in found] == ["Naïve café", "Plain", "", "Last"]
    assert [d.metadata.get("encoding") for d in found] == ["cp1252", None, None, None]
    assert found[2].metadata["problem"] == "x.nbib: line 8, neither UTF-8 nor cp1252"
