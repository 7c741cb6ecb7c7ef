"""JATS as it comes: call-outs of any type, notices, links of every kind, subtitles, translations."""

from pathlib import Path
from typing import Any

import pytest
from datatrove.data import Document

from biomlm.core.cli import run as biomlm
from biomlm.core.manifest import read_manifest
from biomlm.corpus.documents import document_files, documents
from biomlm.corpus.readers.boilerplate import is_notice
from biomlm.corpus.readers.jats import JatsReader

REFERENCES = """<back><ref-list><ref id="b1"><element-citation><pub-id pub-id-type="pmid">111</pub-id></element-citation></ref>
<ref id="b2">{}</ref></ref-list></back>"""


def read(
    tmp_path: Path, body: str, reference: str = "", front: str = "", odd: bool = False, **options: Any
) -> list[Document]:
    """Read an article; `odd` makes its reference list one that is read from the tree."""
    back = REFERENCES.format(reference + ("<!-- x -->" if odd else ""))
    ids = '<article-id pub-id-type="pmc">5</article-id><title-group><article-title>A title here</article-title>'
    text = f"""<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta>{ids}{front}</title-group></article-meta></front>
    {body}{back}</article>"""
    (tmp_path / "a.xml").write_text(text)
    return list(JatsReader(str(tmp_path), **options).read_file("a.xml"))


@pytest.mark.parametrize("kind", ["", 'ref-type="ref"', 'ref-type="bibr"', 'ref-type="other"'])
def test_what_points_into_the_reference_list_is_a_callout(kind: str, tmp_path: Path) -> None:
    xref = f'<xref {kind} rid="b1">1</xref>'
    figure = '<xref rid="f1">3</xref>'
    text = f'A binds B [{xref},<xref rid="b2" {kind}>2</xref>]. As described by [{xref}]. See Fig. {figure}.'
    (document,) = read(tmp_path, f"<body><p>{text}</p></body>")
    assert document.text.split("\n\n")[1] == "A binds B. As described. See Fig. 3."


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize(
    ("reference", "links"),
    [
        (
            "<mixed-citation>A. <object-id pub-id-type='pmid'>22</object-id></mixed-citation>".replace("'", '"'),
            ["pmid:22"],
        ),
        (
            '<mixed-citation>A <ext-link ext-link-type="doi" xlink:href="10.1/X">x</ext-link></mixed-citation>',
            ["doi:10.1/x"],
        ),
        (
            '<mixed-citation>A <ext-link ext-link-type="uri" xlink:href="https://doi.org/10.1234/X">x</ext-link></mixed-citation>',
            ["doi:10.1234/x"],
        ),
        (
            '<mixed-citation>A <ext-link xlink:href="http://www.ncbi.nlm.nih.gov/pubmed/33">x</ext-link></mixed-citation>',
            ["pmid:33"],
        ),
        (
            '<mixed-citation>A <ext-link xlink:href="https://pmc.ncbi.nlm.nih.gov/articles/PMC44/">x</ext-link></mixed-citation>',
            ["pmcid:PMC44"],
        ),
        ('<mixed-citation>A <ext-link xlink:href="https://example.org/pubmed/33">x</ext-link></mixed-citation>', []),
        (
            '<element-citation><pub-id pub-id-type="pmid">222</pub-id></element-citation>'
            '<element-citation><pub-id pub-id-type="pmid">333</pub-id></element-citation>',
            ["pmid:222", "pmid:333"],
        ),
        (
            '<citation-alternatives><element-citation><pub-id pub-id-type="pmid">7</pub-id></element-citation>'
            '<mixed-citation><pub-id pub-id-type="doi">10.1/7</pub-id></mixed-citation></citation-alternatives>',
            ["pmid:7"],
        ),
    ],
)
def test_links_of_every_kind(reference: str, links: list[str], odd: bool, tmp_path: Path) -> None:
    (document,) = read(tmp_path, "<body><p>Words.</p></body>", reference, odd=odd)
    assert document.metadata["links"] == ["pmid:111", *links]


def test_notices_of_publishers_are_left_out(tmp_path: Path) -> None:
    media = "<supplementary-material><media><caption><p>Click here for additional data file.</p></caption></media></supplementary-material>"
    (document,) = read(tmp_path, f"<body><p>Before.</p>{media}<p>Write to us (<email>a@b.c</email>) now.</p></body>")
    assert document.text == "A title here\n\nBefore.\nWrite to us now."


@pytest.mark.parametrize(
    ("block", "notice"),
    [
        ("(DOCX 14 KB)", True),
        ("(TIF)", True),
        (
            "The online version of this article (10.1186/1) contains supplementary material, which is available to authorized users.",
            True,
        ),
        ("Supplementary information accompanies this paper at 10.1038/s41", True),
        (
            "Springer Nature remains neutral with regard to jurisdictional claims in published maps and institutional affiliations.",
            True,
        ),
        ("The Supplementary Material for this article can be found online at: https://x.org/1#a", True),
        ("Click here was pressed by 12 patients.", False),
        ("Supplementary data are available for 12 patients.", False),
        ("(DOCX)-induced apoptosis", False),
    ],
)
def test_what_is_a_notice(block: str, notice: bool) -> None:
    assert is_notice(block) is notice


def test_subtitles_and_translations(tmp_path: Path) -> None:
    body = """<body><p>Body text in English.</p></body><sub-article article-type="translation" xml:lang="pt"><front-stub><title-group>
    <article-title>Um título</article-title></title-group></front-stub><body><p>O texto completo do artigo.</p></body></sub-article>"""
    original, translation = read(tmp_path, body, front="<subtitle>Its subtitle</subtitle>")
    assert original.text == "A title here\nIts subtitle\n\nBody text in English."
    assert translation.text == "Um título\n\nO texto completo do artigo."
    assert (translation.id, translation.metadata["dropped"]) == ("pmcid:PMC5:pt", "translation")
    for more, kept, dropped in (([], 1, {"translation": 1}), (["--translations", "true"], 2, {})):
        out = tmp_path / f"docs{kept}"
        words = ["corpus", "build", "--pmc", f"{tmp_path}/a.xml", "--out", str(out), "--min_words", "1", *more]
        assert biomlm(words) == 0
        source = read_manifest(out, "corpus build").counts["sources"]["pmc"]
        assert (source["kept"], source["dropped"]) == (kept, dropped)
        written = [d for split in ("train", "valid") for path in document_files(out, split) for d in documents(path)]
        assert len({d["id"] for d in written}) == kept
