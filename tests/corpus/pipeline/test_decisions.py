"""What is decided with all records at hand: versions of articles in PMC, retractions said elsewhere, titles without a text."""

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from biomlm.core.cli import run as biomlm
from biomlm.core.manifest import read_manifest
from biomlm.corpus.documents import document_files, documents


def build(folder: Path, *words: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Build without a held-out part; the drops by source, and the documents."""
    out = folder / "docs"
    assert biomlm(["corpus", "build", *words, "--out", str(out), "--valid_fraction", "0"]) == 0
    counts = read_manifest(out, "corpus build").counts["sources"]
    written = [document for path in document_files(out, "train") for document in documents(path)]
    return {source: n["dropped"] for source, n in counts.items()}, written


def package(path: Path, **members: str) -> None:
    with tarfile.open(path, "w") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(f"{name}.xml")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))


def titled(article: str, title: str, pmid: int = 1, pmcid: int = 1) -> str:
    return article.format(pmid=pmid, pmcid=pmcid).replace(f"A study of {pmid} mice", title)


@pytest.mark.parametrize("folders", ["ab", "ba"])
def test_the_latest_package_wins_whatever_the_order(folders: str, tmp_path: Path, article: str) -> None:
    first, second = (tmp_path / name for name in folders)
    first.mkdir()
    second.mkdir()
    package(first / "oa_comm_xml.PMC000xxxxxx.baseline.2024-06-18.tar", PMC1=titled(article, "Of the baseline"))
    package(second / "oa_comm_xml.incr.2024-06-20.tar", PMC1=titled(article, "Of Thursday"))
    package(first / "oa_comm_xml.incr.2024-06-19.tar", PMC1=titled(article, "Of Wednesday"))
    package(second / "oa_noncomm_xml.PMC000xxxxxx.baseline.2023-12-18.tar", PMC1=titled(article, "Of another list"))
    dropped, written = build(tmp_path, "--pmc", f"{tmp_path}/**/*.tar")
    assert [d["text"].split("\n")[0] for d in written] == ["Of Thursday"]
    assert dropped["pmc"] == {"superseded by a newer version": 3}


def test_a_higher_version_wins_over_a_later_package(tmp_path: Path, article: str) -> None:
    second = titled(article, "The second").replace(
        "<title-group>", '<article-id pub-id-type="pmcid-ver">PMC1.2</article-id><title-group>'
    )
    package(tmp_path / "a.2024-01-01.tar", PMC1=second)
    package(tmp_path / "b.2024-02-01.tar", PMC1=titled(article, "The first"))
    assert [d["text"].split("\n")[0] for d in build(tmp_path, "--pmc", f"{tmp_path}/**/*.tar")[1]] == ["The second"]


@pytest.mark.parametrize("more", [[], ["--keep_dropped"]])
def test_a_newer_version_that_is_not_wanted_takes_the_place_of_the_older(
    more: list[str], tmp_path: Path, article: str
) -> None:
    package(tmp_path / "oa.baseline.2024-01-01.tar", PMC1=titled(article, "Free"), PMC2=titled(article, "Stays", 2, 2))
    package(
        tmp_path / "oa.incr.2024-01-02.tar", PMC1=titled(article, "Not free").replace("licenses/by/", "licenses/by-nc/")
    )
    dropped, written = build(tmp_path, "--pmc", f"{tmp_path}/**/*.tar", "--select.licenses", "cc-by", *more)
    assert [d["id"] for d in written] == ["pmcid:PMC2"]
    assert dropped["pmc"] == {"superseded by a newer version": 1, "another licence": 1}


@pytest.mark.parametrize("kept", [True, False])
def test_a_notice_retracts(kept: bool, tmp_path: Path, make: Any, article: str) -> None:
    notice = '<CommentsCorrectionsList><CommentsCorrections RefType="RetractionOf"><PMID Version="1">1</PMID></CommentsCorrections>'
    records = [
        make.plain(1),
        make.plain(2),
        make.record(
            3,
            "Retraction of a finding",
            "<AbstractText>It was wrong.</AbstractText>",
            notice + "</CommentsCorrectionsList>",
        ),
    ]
    (tmp_path / "p.xml").write_bytes(make.citations(*records))
    related = '<related-article related-article-type="{}" ext-link-type="pmid" xlink:href="{}"/><abstract>'
    (tmp_path / "PMC4.nxml").write_text(
        titled(article, "Notice", 4, 4).replace("<abstract>", related.format("retracted-article", 5))
    )
    (tmp_path / "PMC5.nxml").write_text(titled(article, "Wrong", 5, 5))
    (tmp_path / "PMC6.nxml").write_text(titled(article, "RETRACTED ARTICLE: of mice", 6, 6))
    (tmp_path / "PMC7.nxml").write_text(
        titled(article, "Forward", 7, 7).replace("<abstract>", related.format("retraction-forward", 4))
    )
    dropped, written = build(
        tmp_path,
        "--pubmed",
        f"{tmp_path}/p.xml",
        "--pmc",
        f"{tmp_path}/*.nxml",
        "--select.retracted",
        str(kept).lower(),
    )
    marked = {d["id"] for d in written if d["metadata"].get("retracted")}
    assert all("retracts" not in d["metadata"] and "version" not in d["metadata"] for d in written)
    wrong = {"pmid:1", "pmcid:PMC5", "pmcid:PMC6", "pmcid:PMC7"}
    assert marked == (wrong if kept else set())
    assert {d["id"] for d in written} == {"pmid:2", "pmid:3", "pmcid:PMC4"} | (wrong if kept else set())
    assert dropped == ({"pubmed": {}, "pmc": {}} if kept else {"pubmed": {"retracted": 1}, "pmc": {"retracted": 3}})


def test_a_notice_that_was_taken_back_retracts_nothing(tmp_path: Path, make: Any) -> None:
    notice = '<CommentsCorrectionsList><CommentsCorrections RefType="RetractionOf"><PMID Version="1">1</PMID></CommentsCorrections>'
    records = [make.plain(1), make.record(3, "Retraction of a finding", "", notice + "</CommentsCorrectionsList>")]
    (tmp_path / "p1.xml").write_bytes(make.citations(*records))
    (tmp_path / "p2.xml").write_bytes(make.citations("<DeleteCitation><PMID Version='1'>3</PMID></DeleteCitation>"))
    _, written = build(tmp_path, "--pubmed", f"{tmp_path}/*.xml", "--select.retracted", "false")
    assert [d["id"] for d in written] == ["pmid:1"]


def test_a_title_alone_does_not_push_an_abstract_out(tmp_path: Path, make: Any, article: str) -> None:
    bare = re.sub(r"<abstract>.*</abstract>|<body>.*</body>", "", article, flags=re.S)
    (tmp_path / "PMC1.nxml").write_text(titled(bare, "A title of some six words here", 1, 1))
    (tmp_path / "PMC2.nxml").write_text(titled(bare, "A title of some six words too", 2, 2))
    (tmp_path / "PMC3.nxml").write_text(titled(article, "Whole", 3, 3))
    records = [make.plain(1), make.record(2, "A title of some six words too!", ""), make.plain(3)]
    (tmp_path / "p.xml").write_bytes(make.citations(*records))
    dropped, written = build(tmp_path, "--pubmed", f"{tmp_path}/p.xml", "--pmc", f"{tmp_path}/*.nxml")
    assert {d["id"] for d in written} == {"pmid:1", "pmcid:PMC2", "pmcid:PMC3"}
    assert dropped == {"pmc": {"title only, with its abstract in PubMed": 1}, "pubmed": {"same article in PMC": 2}}
