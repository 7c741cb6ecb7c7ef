"""Write the raw inputs of the goldens, always the same bytes: made-up records of a tiny language, about nobody."""

import csv
import gzip
import io
import random
from pathlib import Path

DRUGS = ["aspirin", "heparin", "insulin", "metformin", "warfarin", "digoxin"]
ORGANS = ["heart", "liver", "kidney", "lung", "brain", "spleen"]
EFFECTS = ["protects", "damages", "enlarges", "relaxes"]

RECORD = """<PubmedArticle><MedlineCitation Status="MEDLINE" Owner="NLM"><PMID Version="1">{pmid}</PMID>
<DateRevised><Year>2020</Year><Month>01</Month><Day>02</Day></DateRevised>
<Article PubModel="Print"><Journal><JournalIssue CitedMedium="Print"><PubDate><Year>2019</Year></PubDate></JournalIssue>
<Title>Journal of Goldens</Title></Journal><ArticleTitle>{title}</ArticleTitle>
<Abstract><AbstractText Label="BACKGROUND">{first}</AbstractText><AbstractText Label="RESULTS">{second}</AbstractText></Abstract>
<Language>eng</Language></Article></MedlineCitation><PubmedData>
<ArticleIdList><ArticleId IdType="pubmed">{pmid}</ArticleId></ArticleIdList></PubmedData></PubmedArticle>
"""
ARTICLE = """<article article-type="research-article"><front><journal-meta><journal-title-group>
<journal-title>Goldens</journal-title></journal-title-group></journal-meta><article-meta>
<article-id pub-id-type="pmid">{pmid}</article-id><article-id pub-id-type="pmc">{pmcid}</article-id>
<title-group><article-title>{title}</article-title></title-group><pub-date><year>2011</year></pub-date>
<abstract><p>{abstract}</p></abstract></article-meta></front><body><sec><title>Methods</title><p>{methods} It was shown before
[<xref ref-type="bibr" rid="b1">1</xref>].</p></sec><sec><title>Results</title><p>{results}</p></sec></body><back><ref-list>
<ref id="b1"><element-citation><pub-id pub-id-type="pmid">{cited}</pub-id></element-citation></ref></ref-list></back></article>
"""


class Language:
    """Sentences in which the drug fixes the organ, so that there is something to learn."""

    def __init__(self, seed: int):
        self.draw = random.Random(seed)

    def sentence(self) -> str:
        """One sentence."""
        i = self.draw.randrange(len(DRUGS))
        return f"Treatment with {DRUGS[i]} often {self.draw.choice(EFFECTS)} the {ORGANS[i]} of the patient."

    def text(self, least: int, most: int) -> str:
        """So many sentences."""
        return " ".join(self.sentence() for _ in range(self.draw.randint(least, most)))


def pubmed(language: Language, pmids: range) -> bytes:
    """Records of PubMed."""
    records = [
        RECORD.format(pmid=pmid, title=f"Case {pmid}", first=language.text(2, 4), second=language.text(2, 4))
        for pmid in pmids
    ]
    head = '<?xml version="1.0" encoding="utf-8"?>\n<PubmedArticleSet>\n'
    return (head + "".join(records) + "</PubmedArticleSet>\n").encode()


def article(language: Language, number: int) -> bytes:
    """One article that cites a record."""
    parts = {name: language.text(3, 5) for name in ("abstract", "methods", "results")}
    title = f"Study {number}"
    return ARTICLE.format(pmid=900 + number, pmcid=number, title=title, cited=100 + number, **parts).encode()


def notes(language: Language, rows: int) -> bytes:
    """Notes in the shape of MIMIC-III's table, one of them marked as an error."""
    columns = "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,STORETIME,CATEGORY,DESCRIPTION,CGID,ISERROR,TEXT"
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns.split(","))
    for row in range(1, rows + 1):
        text = f"[**2150-1-{row % 28 + 1}**] Assessment:\n{language.text(3, 6)}\n\nPlan:\n{language.text(2, 3)}"
        error = "1" if row == 7 else ""
        writer.writerow([row, row % 9, 1, "2150-01-02", "", "", "Physician ", "Progress Note", "", error, text])
    return table.getvalue().encode()


def entities(language: Language, sentences: int) -> bytes:
    """Sentences as IOB, drugs and organs tagged."""
    lines = []
    for _ in range(sentences):
        for word in language.sentence().rstrip(".").split():
            tag = "B-Drug" if word in DRUGS else "B-Organ" if word in ORGANS else "O"
            lines.append(f"{word}\t{tag}")
        lines += [".\tO", ""]
    return ("\n".join(lines) + "\n").encode()


def write(folder: Path) -> None:
    """Write everything under `folder`."""
    files = {
        "pubmed/a.xml.gz": gzip.compress(pubmed(Language(1), range(100, 130)), mtime=0),
        "pubmed/b.xml.gz": gzip.compress(pubmed(Language(2), range(130, 160)), mtime=0),
        **{f"pmc/PMC{number}.xml": article(Language(10 + number), number) for number in range(1, 9)},
        "notes/NOTEEVENTS.csv.gz": gzip.compress(notes(Language(5), 24), mtime=0),
        "text/plain.txt": Language(6).text(20, 20).encode(),
        "ner/train.tsv": entities(Language(7), 40),
        "ner/devel.tsv": entities(Language(8), 12),
        "ner/test.tsv": entities(Language(9), 12),
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
