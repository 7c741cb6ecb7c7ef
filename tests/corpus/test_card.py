"""The card: its figures are a recount of the shards, its head is YAML that the Hub's own reader takes, and names cannot break it."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from biomlm.core.cli import run as biomlm
from biomlm.core.manifest import read_manifest
from biomlm.corpus import card
from biomlm.corpus.documents import document_files, documents


@pytest.fixture
def docs(tmp_path: Path, make: Any, article: str) -> Path:
    (tmp_path / "a|b<i>.xml").write_bytes(make.citations(*map(make.plain, range(3, 30))))
    for n in (1, 2):
        (tmp_path / f"{n}.nxml").write_text(article.format(pmid=n, pmcid=n))
    words = [
        "--pubmed",
        f"{tmp_path}/a|b<i>.xml",
        "--pmc",
        f"{tmp_path}/1.nxml",
        f"{tmp_path}/2.nxml",
        "--select.journals",
        "TESTS",
        "Journal of tests",
    ]
    assert biomlm(["corpus", "build", *words, "--out", f"{tmp_path}/docs"]) == 0
    return tmp_path / "docs"


def cells(text: str, title: str) -> list[list[str]]:
    rows = re.search(rf"## {title}.*?\n\n((?:\|.*\n)+)", text)
    assert rows
    return [row.strip("| ").split(" | ") for row in rows[1].splitlines()[2:]]


def test_figures_are_those_of_the_shards(docs: Path) -> None:
    counted: Counter[tuple[str, str, str]] = Counter()
    for split in ("train", "valid"):
        for document in (d for path in document_files(docs, split) for d in documents(path)):
            source = document["metadata"]["source"]
            counted[source, split, "documents"] += 1
            counted[source, split, "words"] += len(document["text"].split())
            counted[source, "licence", document["metadata"].get("license", "")] += 1
    text = (docs / card.MARKDOWN).read_text()
    for source, split, n, words, *_ in cells(text, "Documents"):
        assert (int(n), int(words.replace(",", ""))) == (
            counted[source, split, "documents"],
            counted[source, split, "words"],
        )
    assert cells(text, "Licences") == [["pmc", "cc-by-4.0", str(counted["pmc", "licence", "cc-by-4.0"])]]
    assert cells(text, "Years")[-1] == ["pmc", "2011", "2"]
    assert ["select.journals", r"\['TESTS', 'Journal of tests'\]"] in cells(text, "What was done")


def test_the_head_is_what_the_hub_reads_and_names_are_escaped(docs: Path) -> None:
    text = (docs / card.MARKDOWN).read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["pretty_name"] == "docs"
    assert head["task_categories"] == ["fill-mask"]
    assert head["size_categories"] == "n<1K"
    assert r"a\|b\<i\>.xml" in text
    page = (docs / card.PAGE).read_text()
    assert "a|b&lt;i&gt;.xml" in page
    assert str(docs.parent) not in text + page


def test_the_order_of_a_manifest_that_is_read_again_changes_nothing(docs: Path) -> None:
    record = read_manifest(docs, "corpus build")
    turned = replace(record, config=dict(reversed(record.config.items())), inputs=dict(reversed(record.inputs.items())))
    assert len(record.inputs) > 1
    pages = []
    for each in (record, turned):
        card.write(docs, each, record.counts, {})
        pages.append([(docs / name).read_bytes() for name in (card.MARKDOWN, card.PAGE)])
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("n", "size"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (2_500_000, "1M<n<10M"), (10**9, "n>1B")]
)
def test_size_categories_are_the_hubs(n: int, size: str) -> None:
    assert card._size(n) == size
