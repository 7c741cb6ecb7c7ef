import csv
import gzip
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason="the shared data set is not here"))


@pytest.fixture
def shared() -> Path:
    return SHARED


def record(pmid: int, title: str, abstract: str, extra: str = "", version: int = 1, revised: int = 2020) -> str:
    return f"""<PubmedArticle><MedlineCitation Status="MEDLINE" Owner="NLM"><PMID Version="{version}">{pmid}</PMID>
<DateRevised><Year>{revised}</Year><Month>01</Month><Day>02</Day></DateRevised>
<Article PubModel="Print"><Journal><JournalIssue CitedMedium="Print"><PubDate><MedlineDate>1998 Dec-1999 Jan</MedlineDate></PubDate>
</JournalIssue><Title>Journal of Tests</Title></Journal><ArticleTitle>{title}</ArticleTitle>
<Abstract>{abstract}</Abstract><Language>eng</Language></Article>{extra}</MedlineCitation>
<PubmedData><ArticleIdList><ArticleId IdType="pubmed">{pmid}</ArticleId><ArticleId IdType="doi">10.1000/T.{pmid}</ArticleId>
</ArticleIdList></PubmedData></PubmedArticle>"""


def citations(*records: str) -> bytes:
    head = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st January 2024//EN" "https://dtd.nlm.nih.gov/x.dtd">
<PubmedArticleSet>"""
    return (head + "\n".join(records) + "</PubmedArticleSet>").encode()


def plain(pmid: int, **options: int) -> str:
    text = f"<AbstractText>Finding number {pmid} is reported here. It was seen in {pmid % 7} of 12 mice.</AbstractText>"
    return record(pmid, f"Finding {pmid} in mice", text, **options)


@pytest.fixture
def make():  # type: ignore[no-untyped-def]
    """Helpers that write records: `make.record`, `make.citations`, `make.plain`, `make.notes`."""

    class Make:
        pass

    Make.record, Make.citations, Make.plain, Make.notes = map(staticmethod, (record, citations, plain, notes))
    return Make


def notes(path: Path, rows: list[tuple[int, int, str, str]]) -> Path:
    """Write rows of (row id, subject, is-error, text) in NOTEEVENTS's shape."""
    columns = "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,STORETIME,CATEGORY,DESCRIPTION,CGID,ISERROR,TEXT"
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns.split(","))
        for row_id, subject, error, text in rows:
            writer.writerow([row_id, subject, 1, "2150-01-02", "", "", "Physician ", "Progress Note", "", error, text])
    return path


ARTICLE = """<article article-type="research-article" xmlns:xlink="http://www.w3.org/1999/xlink"><front><journal-meta>
<journal-title-group><journal-title>Tests</journal-title></journal-title-group></journal-meta><article-meta>
<article-id pub-id-type="pmid">{pmid}</article-id><article-id pub-id-type="pmc">{pmcid}</article-id>
<title-group><article-title>A study of {pmid} mice</article-title></title-group><pub-date><year>2011</year></pub-date>
<permissions><license xlink:href="http://creativecommons.org/licenses/by/4.0/"><license-p>Open.</license-p></license></permissions>
<abstract><p>We studied {pmid} mice in the laboratory.</p></abstract></article-meta></front>
<body><sec><title>Methods</title><p>Mice were fed as shown previously [<xref ref-type="bibr" rid="b1">1</xref>,
<xref ref-type="bibr" rid="b2">2</xref>]. They were weighed daily.</p><sec><title>Assay</title><p>We used <italic>Taq</italic> at
pH 7.4 (Fig. 1).</p></sec></sec></body><back><ref-list><ref id="b1"><element-citation><pub-id pub-id-type="pmid">11</pub-id>
</element-citation></ref><ref id="b2"><element-citation><pub-id pub-id-type="doi">10.1/ABC</pub-id></element-citation></ref></ref-list>
</back></article>"""


@pytest.fixture
def article() -> str:
    """A JATS article with `{pmid}` and `{pmcid}` to fill in."""
    return ARTICLE
