"""`corpus show`: the text is the shard's, a dropped id says why, and text of patients is shown when asked for only."""

from pathlib import Path
from typing import Any

import pytest

from biomlm.core.cli import run as biomlm
from biomlm.corpus.documents import document_files, documents

CANARY = "Zebracanary"


@pytest.fixture
def docs(tmp_path: Path, make: Any) -> Path:
    (tmp_path / "a.xml").write_bytes(make.citations(*map(make.plain, range(1, 30)), make.plain(3, revised=2021)))
    make.notes(
        tmp_path / "notes.csv.gz",
        [(1, 5, "", f"{CANARY} was seen today in the clinic."), (2, 6, "", "Nothing new was seen today at all.")],
    )
    words = ["--pubmed", f"{tmp_path}/a.xml", "--notes", f"{tmp_path}/notes.csv.gz"]
    assert biomlm(["corpus", "build", *words, "--out", f"{tmp_path}/docs"]) == 0
    return tmp_path / "docs"


def ids(docs: Path, source: str) -> list[str]:
    everything = [d for split in ("train", "valid") for path in document_files(docs, split) for d in documents(path)]
    return [d["id"] for d in everything if d["metadata"]["source"] == source]


def test_documents_come_in_the_order_asked_for_with_their_text(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert biomlm(["corpus", "show", str(docs), "pmid:7", "pmid:2"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("pmid:7 · pubmed") < shown.index("Finding number 7 is") < shown.index("pmid:2 · pubmed")
    assert "Finding number 1 " not in shown


def test_an_older_version_names_the_newer(docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.txt").write_text("Too short.")
    assert (
        biomlm(
            [
                "corpus",
                "build",
                "--text",
                f"{tmp_path}/t.txt",
                "--pubmed",
                f"{tmp_path}/a.xml",
                "--out",
                f"{tmp_path}/o",
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert biomlm(["corpus", "show", f"{tmp_path}/o", "text:t.txt:0"]) == 0
    assert capsys.readouterr().out == "text:t.txt:0 · text · dropped: fewer than 5 words\n"


def test_a_sample_is_the_same_each_time_and_of_the_sources_asked_for(
    docs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = []
    for seed in ("1", "1", "2"):
        capsys.readouterr()
        assert biomlm(["corpus", "show", str(docs), "--sample", "4", "--seed", seed, "--sources", "pubmed"]) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1] != outs[2]
    assert all(out.count("pmid:") == out.count(" · pubmed · ") == 4 for out in outs)


def test_text_of_notes_is_shown_when_asked_for_only(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ids(docs, "notes")
    capsys.readouterr()
    assert biomlm(["corpus", "show", str(docs), *wanted]) == 0
    assert CANARY not in capsys.readouterr().out
    assert biomlm(["corpus", "show", str(docs), *wanted, "--private"]) == 0
    assert CANARY in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "neither ids nor --sample are given"),
        (["pmid:1", "--sample", "2"], "ids and --sample are both given"),
        (["pmid:99"], "there is no document pmid:99"),
        (["--sample", "1", "--sources", "pubmet"], "there is no source pubmet"),
        (["pmid:1", "--seed", "3"], "--seed has no effect here"),
    ],
)
def test_mistakes(words: list[str], message: str, docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert biomlm(["corpus", "show", str(docs), *words]) == 2
    assert message in capsys.readouterr().err
