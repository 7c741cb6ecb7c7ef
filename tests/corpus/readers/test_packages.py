"""Packages of articles: names in any case, odd characters in articles, lists that do not end."""

import gzip
import io
import lzma
import re
import tarfile
from pathlib import Path

import pytest

from biomlm.corpus.pipeline.inputs import find
from biomlm.corpus.readers.jats import JatsReader
from biomlm.corpus.readers.jats_references import cut


@pytest.mark.parametrize("name", ["p.tgz", "P.TAR.GZ", "p.tar.xz", "p.TXZ", "P.TAR"])
def test_a_suffix_may_be_short_or_in_capitals_in_a_package_too(name: str, tmp_path: Path, article: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, member in enumerate(("1.XML", "2.nxml", "3.NXML", "picture.JPG"), start=1):
            content = article.format(pmid=number, pmcid=number).encode()
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    pack = {"gz": gzip.compress, "xz": lzma.compress}.get(name.lower()[-2:], bytes)
    (tmp_path / name).write_bytes(pack(buffer.getvalue()))
    (found,) = find("pmc", [str(tmp_path)])
    assert [d.id for d in JatsReader(str(tmp_path)).read_file(Path(found.path).name)] == [
        f"pmcid:PMC{number}" for number in (1, 2, 3)
    ]


def test_a_package_without_an_article_says_so(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("picture.jpg"), io.BytesIO())
    assert [d.metadata["problem"] for d in JatsReader(str(tmp_path)).read_file("p.tar")] == ["p.tar: no article in it"]


@pytest.mark.parametrize("odd", ["\ue000", "\ue001", "\ue001\ue000", "&#xE000;", "\ue000\ue000"])
def test_private_characters_in_an_article_stay_and_end_nothing(odd: str, tmp_path: Path, article: str) -> None:
    """They were the marks of call-outs, and one alone was looked for again and again."""
    (tmp_path / "a.xml").write_text(
        article.format(pmid=1, pmcid=1).replace("pH 7.4", f"pH{odd} 7.4 [<xref ref-type='bibr'>3</xref>]")
    )
    (document,) = JatsReader(str(tmp_path)).read_file("a.xml")
    assert f"pH{odd.replace('&#xE000;', chr(0xE000))} 7.4 (Fig. 1)." in document.text


@pytest.mark.parametrize("front", [b"", b"<article>", b"<article>\n", b"<article>\n\n"])
def test_a_reference_list_without_an_end_stays(front: bytes) -> None:
    """At byte 10 it was found again and again."""
    data = front + b"<ref-list><ref/></article>"
    assert cut(data) == (data, [])


MATH = '<inline-formula><mml:math><mml:mi>x</mml:mi></mml:math></inline-formula> <ext-link xlink:href="http://x">site</ext-link>'
DECLARED = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
MML = "xmlns:mml='http://www.w3.org/1998/Math/MathML'"


@pytest.mark.parametrize(
    ("outer", "own"),
    [
        ("", f"{DECLARED} {MML}"),
        ("", f'{DECLARED} {MML} xmlns="https://jats.nlm.nih.gov/ns/archiving/1.3/"'),
        (f"<pmc-articleset {DECLARED} {MML}>", ""),
        (
            f'<OAI-PMH {DECLARED} {MML} xmlns="http://www.openarchives.org/OAI/2.0/"><record>',
            'xmlns="http://jats.nlm.nih.gov"',
        ),
        ("<!DOCTYPE article SYSTEM 'JATS-archivearticle1.dtd'>", ""),
        ("<!DOCTYPE article SYSTEM 'JATS-archivearticle1.dtd'>", DECLARED),
    ],
    ids=["plain", "default", "on a set", "OAI", "by the DTD", "one by the DTD"],
)
def test_namespaces_wherever_they_are_declared(outer: str, own: str, tmp_path: Path, article: str) -> None:
    text = article.format(pmid=7, pmcid=1).replace("They were", f"They {MATH} were")
    closing = "".join(f"</{name}>" for name in reversed(re.findall(r"<([A-Za-z][\w-]*)", outer)))
    (tmp_path / "a.xml").write_text(outer + text.replace(DECLARED, own) + closing)
    (document,) = JatsReader(str(tmp_path)).read_file("a.xml")
    assert "They x site were weighed daily." in document.text
    assert document.id == "pmcid:PMC1"
    assert document.metadata["links"] == ["pmid:11", "doi:10.1/abc"]
    assert document.metadata["license"] == "cc-by-4.0"
