"""Make `demo/data` from the collections named in demo/data/README.md: python demo/make_data.py COLLECTIONS

COLLECTIONS is a folder with `pubmed/`, `citations/`, `pmc/`, `clinical/`, `ner/`, `pubmedqa/` and `mmlu_medical/` as those collections are
published. The output is tracked,
so only someone who wants to change the selection needs this.
"""

import csv
import gzip
import json
import re
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

OUT = Path(__file__).parent / "data"
WORKS, WORKS_PER_FILE = 4800, 1600
ARTICLES, ARTICLE_BYTES = 40, (25_000, 80_000)
SYNTHETIC = 150  # notes
SENTENCES = {"train": 60, "devel": 30, "test": 30}
QUESTIONS, TEST_QUESTIONS, EXAM_QUESTIONS = 30, 10, 15

# Every article of these journals is published under CC BY.
CC_BY_JOURNALS = re.compile(r"BMC |eLife$|F1000Research$|Journal of medical case reports$")
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<PubmedArticleSet>\n'


def write_gzip(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    print(f"{path.relative_to(OUT)}  {path.stat().st_size:,} bytes")


def real_records(folder: Path) -> Iterator[str]:
    """PubMed's own records, as they are, of articles in journals that are CC BY throughout."""
    seen = set()
    for path in sorted(folder.glob("*.xml*")):
        text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
        for record in re.findall(r"<PubmedArticle>.*?</PubmedArticle>", text, re.S):
            pmid = re.search(r"<PMID[^>]*>(\d+)<", record)
            journal = re.search(r"<Journal>.*?<Title>(.*?)</Title>", record, re.S)
            if (
                pmid
                and journal
                and CC_BY_JOURNALS.match(journal[1])
                and "<AbstractText" in record
                and pmid[1] not in seen
            ):
                seen.add(pmid[1])
                yield record


def works(path: Path) -> list[dict[str, Any]]:
    """The first works by PMID that have a title and an abstract."""
    by_pmid: dict[int, dict[str, Any]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            work = json.loads(line)
            if work["pmid"] and work["title"] and work["abstract"] and len(work["abstract"]) > 400:
                by_pmid.setdefault(int(work["pmid"]), work)
    return [by_pmid[pmid] for pmid in sorted(by_pmid)][:WORKS]


def as_pubmed(work: dict[str, Any], pmids: dict[str, str]) -> str:
    """One work in the shape of PubMed's XML."""
    cited = "".join(
        f'<Reference><ArticleIdList><ArticleId IdType="pubmed">{pmids[ref]}</ArticleId></ArticleIdList></Reference>'
        for ref in work["referenced_works"]
        if ref in pmids
    )
    mesh = "".join(
        f"<MeshHeading><DescriptorName>{escape(term)}</DescriptorName></MeshHeading>" for term in work["mesh"]
    )
    doi = (work["doi"] or "").removeprefix("https://doi.org/")
    return (
        f'<PubmedArticle><MedlineCitation Status="MEDLINE"><PMID Version="1">{work["pmid"]}</PMID><Article PubModel="Print">'
        f"<Journal><JournalIssue><PubDate><Year>{work['year']}</Year></PubDate></JournalIssue></Journal>"
        f"<ArticleTitle>{escape(work['title'])}</ArticleTitle>"
        f"<Abstract><AbstractText>{escape(work['abstract'])}</AbstractText></Abstract><Language>eng</Language></Article>"
        f"<MeshHeadingList>{mesh}</MeshHeadingList></MedlineCitation><PubmedData><ArticleIdList>"
        f'<ArticleId IdType="pubmed">{work["pmid"]}</ArticleId>'
        + (f'<ArticleId IdType="doi">{escape(doi)}</ArticleId>' if doi else "")
        + f"</ArticleIdList><ReferenceList>{cited}</ReferenceList></PubmedData></PubmedArticle>"
    )


def pubmed(collections: Path) -> None:
    chosen = works(collections / "citations" / "works.jsonl.gz")
    pmids = {work["id"]: work["pmid"] for work in chosen}
    records = [as_pubmed(work, pmids) for work in chosen]
    for number, start in enumerate(range(0, len(records), WORKS_PER_FILE), 1):
        part = records[start : start + WORKS_PER_FILE]
        write_gzip(OUT / "pubmed" / f"works_{number:02}.xml.gz", HEAD + "\n".join(part) + "\n</PubmedArticleSet>\n")
    real = list(real_records(collections / "pubmed"))
    write_gzip(OUT / "pubmed" / "ccby_journals.xml.gz", HEAD + "\n".join(real) + "\n</PubmedArticleSet>\n")
    print(f"{len(records)} works, {len(real)} records as PubMed has them")


def pmc(collections: Path) -> None:
    with (collections / "pmc" / "index.tsv").open(encoding="utf-8") as file:
        rows = {row["pmcid"]: row for row in csv.DictReader(file, delimiter="\t")}
    low, high = ARTICLE_BYTES
    fit = [row for row in rows.values() if low < int(row["bytes"]) < high and row["licence"] in ("cc-by", "cc0")]
    chosen = {row["pmcid"] for row in sorted(fit, key=lambda r: (r["licence"] != "cc0", r["sha256"]))[:ARTICLES]}
    with tarfile.open(collections / "pmc" / "pmc_ccby.tar.xz") as archive:
        for member in archive:
            name = Path(member.name).stem
            stream = archive.extractfile(member) if name in chosen else None
            if stream:
                write_gzip(OUT / "pmc" / f"{name}.xml.gz", stream.read().decode())
    lines = [f"{name}\t{rows[name]['licence']}\t{rows[name]['doi']}" for name in sorted(chosen)]
    (OUT / "pmc" / "LICENCES.tsv").write_text("pmcid\tlicence\tdoi\n" + "\n".join(lines) + "\n", encoding="utf-8")


def notes(collections: Path) -> None:
    (OUT / "notes").mkdir(parents=True, exist_ok=True)
    shutil.copy(
        collections / "clinical" / "noteevents_shaped_aci" / "NOTEEVENTS.csv.gz", OUT / "notes" / "NOTEEVENTS.csv.gz"
    )


def tasks(collections: Path) -> None:
    """The beginnings of three data sets to fine-tune on; a sentence that stands in an earlier fold is left out."""
    seen: set[str] = set()
    for fold, count in SENTENCES.items():
        text = gzip.decompress((collections / "ner" / "NCBI-disease-IOB" / f"{fold}.tsv.gz").read_bytes()).decode()
        chosen = list(dict.fromkeys(block for block in text.strip().split("\n\n") if block not in seen))[:count]
        seen |= set(chosen)
        _write(OUT / "tasks" / "NCBI-disease" / f"{fold}.tsv", "\n\n".join(chosen) + "\n")
    answers = json.loads((collections / "pubmedqa" / "test_ground_truth.json").read_text())
    questions = json.loads(gzip.decompress((collections / "pubmedqa" / "ori_pqal.json.gz").read_bytes()))
    held = list(answers)[:TEST_QUESTIONS]
    kept = [pmid for pmid in questions if pmid not in answers][: QUESTIONS - TEST_QUESTIONS] + held
    wanted = ("QUESTION", "CONTEXTS", "final_decision")
    few = {pmid: {name: questions[pmid][name] for name in wanted} for pmid in kept}
    _write(OUT / "tasks" / "PubMedQA" / "ori_pqal.json", json.dumps(few, indent=1) + "\n")
    _write(OUT / "tasks" / "PubMedQA" / "test_ground_truth.json", json.dumps({p: answers[p] for p in held}) + "\n")
    for fold in ("dev", "val", "test"):
        name = f"professional_medicine_{fold}.csv"
        with (collections / "mmlu_medical" / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))[:EXAM_QUESTIONS]
        (OUT / "tasks" / "MMLU").mkdir(parents=True, exist_ok=True)
        with (OUT / "tasks" / "MMLU" / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


COMPLAINTS = (
    "chest pain",
    "shortness of breath",
    "fever",
    "headache",
    "abdominal pain",
    "a dry cough",
    "dizziness",
    "back pain",
)
FINDINGS = (
    "lungs are clear",
    "the abdomen is soft",
    "heart sounds are regular",
    "there is no oedema",
    "the throat is red",
)
DRUGS = ("aspirin", "metformin", "lisinopril", "amoxicillin", "paracetamol", "atorvastatin", "salbutamol")
PLANS = (
    "return in two weeks",
    "have blood drawn tomorrow",
    "see a cardiologist",
    "rest and drink plenty",
    "call if it gets worse",
)
ARTICLE = """\
The heart is a muscle that pumps blood through the body. In people it has four chambers, two atria above and two ventricles below.
Blood that comes back from the body goes through the right side to the lungs, takes up oxygen there, and goes through the left side on.
The kidneys filter the blood and make urine. Each of them has about a million nephrons, which keep what is of use and let go of the rest.
An enzyme is a protein that speeds up a reaction and is not used up in it. Most names of enzymes end in -ase, as lactase does.
A vaccine shows the immune system a harmless part of a germ, so that it knows the germ when it meets it later.
"""


def text() -> None:
    """Synthetic notes, made up here from lists of words, and a page of plain prose."""
    notes = []
    for number in range(SYNTHETIC):
        pick = [
            words[number * step % len(words)]
            for words, step in ((COMPLAINTS, 3), (FINDINGS, 2), (DRUGS, 5), (PLANS, 3))
        ]
        age = 20 + 7 * number % 60
        notes.append(
            f"HISTORY: A patient aged {age} comes in with {pick[0]} for {number % 9 + 1} days. They take {pick[2]} every day. "
            f"EXAM: On examination {pick[1]}, and the pulse is {60 + 11 * number % 40} a minute. "
            f"PLAN: We go on with {pick[2]}, {number % 4 + 1} tablets a day. The patient is to {pick[3]}."
        )
    lines = [json.dumps({"id": str(number), "text": note}) for number, note in enumerate(dict.fromkeys(notes))]
    _write(OUT / "text" / "synthetic.jsonl", "\n".join(lines) + "\n")
    _write(OUT / "text" / "prose.txt", ARTICLE)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for part in (pubmed, pmc, notes, tasks):
        part(Path(sys.argv[1]))
    text()
