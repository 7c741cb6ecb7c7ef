"""Parts: no number or value in a record, however odd, ends a build."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from biomlm.core.files import read_json
from biomlm.corpus.pipeline.intermediate import WriteParts, part_folder, table
from biomlm.corpus.readers.jats import JatsReader
from biomlm.corpus.readers.pubmed import PubMedReader
from biomlm.corpus.readers.text import TextReader
from biomlm.corpus.salt import Salt
from biomlm.corpus.text.document import AddSentences

NAMES = ("id", "pmid", "pmcid", "doi", "year", "journal", "license", "category", "links", "date", "metadata")
NESTED = json.loads("[" * 300 + "]" * 300)
VALUES = (True, 5, -1, 1e300, 10**25, "", "\0", "9" * 5000, "٣٤", "-1", [], {}, [1], {"pmid": 5}, NESTED)
CITATION = """<PubmedArticle><MedlineCitation><PMID Version="1">12</PMID><DateRevised><Year>2019</Year><Month>02</Month><Day>08</Day>
</DateRevised><Article><Journal><JournalIssue><PubDate><Year>1975</Year><Month>8</Month><Day>15</Day></PubDate></JournalIssue>
</Journal><ArticleTitle>A title.</ArticleTitle><Language>eng</Language></Article><CommentsCorrectionsList>
<CommentsCorrections RefType="RetractionOf"><RefSource>K</RefSource><PMID Version="1">77</PMID></CommentsCorrections>
</CommentsCorrectionsList></MedlineCitation><PubmedData><ArticleIdList><ArticleId IdType="pmc">PMC5</ArticleId></ArticleIdList>
</PubmedData></PubmedArticle><DeleteCitation><PMID>99</PMID></DeleteCitation>"""
ARTICLE = """<article><front><article-meta><article-id pub-id-type="pmcid">PMC12</article-id><article-id pub-id-type="pmid">34</article-id>
<article-id pub-id-type="pmcid-ver">PMC12.2</article-id><title-group><article-title>A title</article-title></title-group>
<pub-date pub-type="epub"><day>15</day><month>8</month><year>2010</year></pub-date></article-meta></front>
<body><p>Text.</p></body></article>"""


def counted(tmp_path: Path, reader: Any, file: str) -> int:
    """Write a file's documents as a part; return the number of records that are counted."""
    source = {TextReader: "text", PubMedReader: "pubmed", JatsReader: "pmc"}[reader]

    def of_source() -> Any:
        for document in reader(str(tmp_path)).read_file(file):
            document.metadata["source"] = source
            yield document

    work = tmp_path / f"work-{file}"
    list(WriteParts(str(work), Salt(), keep_dropped=False).run(AddSentences().run(of_source())))
    records: dict[str, int] = read_json(part_folder(work, 0) / "counts.json")["records"]
    assert len(table(work, 0, "keys")) <= sum(records.values())
    return sum(records.values())


def test_rows_with_odd_values(tmp_path: Path) -> None:
    rows = [{"text": "Words are here.", name: value} for name in NAMES for value in VALUES]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert counted(tmp_path, TextReader, "x.jsonl") == len(rows)


@pytest.mark.parametrize(("reader", "text"), [(PubMedReader, CITATION), (JatsReader, ARTICLE)])
def test_articles_with_odd_numbers(reader: Any, text: str, tmp_path: Path) -> None:
    parts = []
    for number in re.finditer(r"\d+", text):
        parts += [text[: number.start()] + odd + text[number.end() :] for odd in ("9" * 30, "-1", "", "٣٤٥", "1e9")]
    (tmp_path / "x.xml").write_text(f"<set>{''.join(parts)}</set>")
    assert counted(tmp_path, reader, "x.xml") == len(parts)
