"""The list of what was dropped: every record that is not in the splits is in it once, with what is kept in its place."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from biomlm.core.cli import run as biomlm
from biomlm.core.manifest import read_manifest
from biomlm.corpus.documents import SPLITS, document_files, documents
from biomlm.corpus.pipeline.dropped import read_dropped


def build(folder: Path, *words: str) -> list[dict[str, Any]]:
    """Build, compare the list with the counts, and return it."""
    out = folder / "docs"
    assert biomlm(["corpus", "build", *words, "--out", str(out), "--valid_fraction", "0"]) == 0
    counted = {
        (source, reason): n
        for source, of_source in read_manifest(out, "corpus build").counts["sources"].items()
        for reason, n in of_source["dropped"].items()
    }
    listed = list(read_dropped(out))
    assert Counter((drop["source"], drop["reason"]) for drop in listed) == counted
    kept = {d["id"] for split in SPLITS for path in document_files(out, split) for d in documents(path)}
    everything = kept | {drop["id"] for drop in listed}
    assert all(drop["instead"] in everything for drop in listed if drop["instead"])
    return listed


@pytest.mark.parametrize("more", [[], ["--keep_dropped"], ["--workers", "2"]])
def test_every_kind_of_drop_names_what_is_kept(more: list[str], tmp_path: Path, make: Any, article: str) -> None:
    seven = "<AbstractText>Seven of many mice slept.</AbstractText>"
    first = [make.plain(1), make.plain(2), make.record(7, "Seven", seven), make.plain(9)]
    delete = "<DeleteCitation><PMID Version='1'>9</PMID></DeleteCitation>"
    (tmp_path / "a.xml").write_bytes(make.citations(*first))
    (tmp_path / "b.xml").write_bytes(
        make.citations(make.plain(2, revised=2021), make.record(8, "Seven", seven), delete)
    )
    (tmp_path / "1.nxml").write_text(article.format(pmid=1, pmcid=1))
    (tmp_path / "short.txt").write_text("Too short.")
    (tmp_path / "same.txt").write_text("A long enough text of several words.")
    (tmp_path / "again.txt").write_text("A long enough text of several words.")
    listed = build(
        tmp_path,
        "--pubmed",
        f"{tmp_path}/a.xml",
        f"{tmp_path}/b.xml",
        "--pmc",
        f"{tmp_path}/1.nxml",
        "--text",
        f"{tmp_path}/*.txt",
        *more,
    )
    assert {(drop["id"], drop["reason"]): drop["instead"] for drop in listed} == {
        ("pmid:1", "same article in PMC"): "pmcid:PMC1",
        ("pmid:2", "superseded by a newer version"): "pmid:2",
        ("pmid:8", "same text"): "pmid:7",
        ("pmid:9", "deleted by an update file"): None,
        ("text:short.txt:0", "fewer than 5 words"): None,
        ("text:same.txt:0", "same text"): "text:again.txt:0",
    }
