"""`corpus build` from end to end: formats, identity, resuming, determinism, refusals."""

import gzip
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from biomlm.core.cli import run as biomlm
from biomlm.core.manifest import read_manifest
from biomlm.corpus.commands.build import check


@pytest.fixture
def raw(tmp_path: Path, make: Any, article: str) -> Path:
    """One file of each source: 60 citations, 3 articles (one of them among the citations), 30 notes, 4 texts."""
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "pubmed25n0001.xml").write_bytes(make.citations(*(make.plain(i) for i in range(1, 61))))
    for i in (7, 1001, 1002):
        (folder / f"PMC{i}.nxml").write_text(article.format(pmid=i, pmcid=i))
    rows = [
        (i, i // 3, "1" if i == 5 else "", f"Chief Complaint: pain no. {i}\n\nThe patient is stable today.")
        for i in range(30)
    ]
    make.notes(folder / "NOTEEVENTS.csv.gz", rows)
    (folder / "extra.jsonl").write_bytes(
        b"".join(orjson.dumps({"text": f"Plain text number {i} is here."}) + b"\n" for i in range(4))
    )
    return folder


def build(raw: Path, out: Path, *more: str) -> int:
    files = [
        "--pubmed",
        f"{raw}/*.xml",
        "--pmc",
        f"{raw}/*.nxml",
        "--notes",
        f"{raw}/NOTEEVENTS.csv.gz",
        "--text",
        f"{raw}/extra.jsonl",
    ]
    return biomlm(["corpus", "build", *files, "--out", str(out), *more])


def read(out: Path, split: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for path in sorted((out / split).glob("*.jsonl.gz")) for line in gzip.open(path)]


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.gz"))}


def test_documents_have_the_agreed_format(raw: Path, tmp_path: Path) -> None:
    assert build(raw, tmp_path / "docs", "--valid_fraction", "0.1") == 0
    for split in ("train", "valid"):
        found = read(tmp_path / "docs", split)
        assert {d["metadata"]["source"] for d in found} == {"pubmed", "pmc", "notes", "text"}
        for document in found:
            text, meta = document["text"], document["metadata"]
            assert set(document) == {"text", "id", "metadata"}
            covered = "".join(text[a:b] for a, b in meta["sentences"])
            assert "".join(covered.split()) == "".join(text.split())
            ends = [edge for a, b, _ in meta["sections"] for edge in (a, b)]
            assert ends == sorted(ends)
            assert isinstance(meta["links"], list)
    ids = [d["id"] for split in ("train", "valid") for d in read(tmp_path / "docs", split)]
    assert len(set(ids)) == len(ids) == 59 + 3 + 29 + 4
    assert not (tmp_path / "docs" / ".work").exists()


def test_the_counts_add_up_and_say_why(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(raw, tmp_path / "docs") == 0
    sources = read_manifest(tmp_path / "docs", "corpus build").counts["sources"]
    assert sources["pubmed"]["records"] == 60
    assert sources["pubmed"]["dropped"] == {"same article in PMC": 1}
    assert sources["notes"]["dropped"] == {"marked as an error": 1}
    for n in sources.values():
        assert n["records"] == n["kept"] + sum(n["dropped"].values())
    assert "60 = 59 + 1" in capsys.readouterr().out


def test_a_run_whose_counts_do_not_add_up_fails() -> None:
    check({"sources": {"pubmed": {"records": 3, "kept": 1, "dropped": {"no text": 2}}}})
    with pytest.raises(RuntimeError, match="pubmed: 4 records, but 1 kept and 2 dropped"):
        check({"sources": {"pubmed": {"records": 4, "kept": 1, "dropped": {"no text": 2}}}})


def test_a_patient_is_in_one_split_only_and_only_as_a_hash(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build(raw, tmp_path / "docs", "--valid_fraction", "0.4") == 0
    patients = [
        {d["metadata"].get("patient") for d in read(tmp_path / "docs", split)} - {None} for split in ("train", "valid")
    ]
    assert patients[0]
    assert patients[1]
    assert not patients[0] & patients[1]
    assert all(len(p) == 16 for p in patients[0] | patients[1])
    monkeypatch.setenv("BIOMLM_SALT", "another secret of enough length")
    assert build(raw, tmp_path / "other", "--valid_fraction", "0.4") == 0
    other = {d["metadata"].get("patient") for d in read(tmp_path / "other", "train")} - {None}
    assert not other & (patients[0] | patients[1])
    assert b"secret" not in (tmp_path / "other" / "manifest.json").read_bytes()


def test_two_workers_and_a_rerun_give_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    assert build(raw, tmp_path / "one") == 0
    assert build(raw, tmp_path / "two", "--workers", "2") == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "one").rglob("*")}
    assert build(raw, tmp_path / "one") == 0
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "one").rglob("*")}


def test_another_configuration_is_refused_and_override_starts_over(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(raw, tmp_path / "docs") == 0
    assert build(raw, tmp_path / "docs", "--min_words", "9") == 2
    assert "min_words (5 then, 9 now)" in capsys.readouterr().err
    assert build(raw, tmp_path / "docs", "--min_words", "9", "--override") == 0
    assert build(raw, tmp_path / "fresh", "--min_words", "9") == 0
    assert contents(tmp_path / "docs") == contents(tmp_path / "fresh")


def test_a_killed_build_goes_on(tmp_path: Path, make: Any) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for n in range(12):  # twelve tasks: incompressible padding makes each file big enough to stand alone
        pad = "<!--" + os.urandom(4_500_000).hex() + "-->"
        (raw / f"p{n:02}.xml").write_bytes(make.citations(*(make.plain(n * 100 + i) for i in range(1, 30)), pad))
    command = [sys.executable, "-m", "biomlm.corpus", "build", "--pubmed", str(raw), "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    parts = tmp_path / "killed" / ".work" / "parts"
    while process.poll() is None and not (parts / "00001").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (parts / "00000").exists()
    assert not (tmp_path / "killed" / "train").exists()
    done = (parts / "00000" / "keys.bin").stat().st_mtime_ns
    assert biomlm(["corpus", "build", "--pubmed", str(raw), "--out", str(tmp_path / "killed")]) == 0
    assert biomlm(["corpus", "build", "--pubmed", str(raw), "--out", str(tmp_path / "whole")]) == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert done < (tmp_path / "whole" / "manifest.json").stat().st_mtime_ns


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there is nothing to read"),
        (["--pubmed", "nowhere.xml"], "there is nothing by that name"),
        (["--pubmed", "wrong.csv"], "there is no file that --pubmed reads"),
        (["--pubmed", "note.txt"], "note.txt: line 1, a line without a tag"),
        (["--text", "note.txt", "--valid_fraction", "1"], "valid_fraction must be at least 0"),
        (["--text", "empty.txt"], "no document is left (1 no text)"),
        (["--pubmed", "empty.xml"], "no document is left"),
        (["--notes", "wrong.csv"], "there is no column `text`"),
    ],
)
def test_mistakes_are_said_in_two_lines(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("note.txt").write_text("A few words of plain text.")
    Path("empty.txt").touch()
    Path("empty.xml").touch()
    Path("wrong.csv").write_text("a,b\n1,2\n")
    assert biomlm(["corpus", "build", *words, "--out", "docs"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_dropped_records_are_written_when_asked_for(raw: Path, tmp_path: Path) -> None:
    assert build(raw, tmp_path / "docs", "--keep_dropped") == 0
    dropped = read(tmp_path / "docs", "dropped")
    assert sorted(d["metadata"]["dropped"] for d in dropped) == ["marked as an error", "same article in PMC"]
    assert all(d["text"] for d in dropped)
    assert build(raw, tmp_path / "without") == 0
    kept = {k: v for k, v in contents(tmp_path / "docs").items() if not k.startswith("dropped/")}
    assert kept == contents(tmp_path / "without")


def test_stats_prints_every_source(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(raw, tmp_path / "docs") == 0
    capsys.readouterr()
    assert biomlm(["corpus", "stats", str(tmp_path / "docs")]) == 0
    out = capsys.readouterr().out
    for source in ("pubmed", "pmc", "notes", "text"):
        assert f"{source} (docs)" in out
    assert "2150" in out
    assert "same article in PMC" in out
    assert biomlm(["corpus", "stats", str(raw)]) == 2


def test_a_link_to_nothing_in_a_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("more than five words of a text")
    (tmp_path / "raw" / "b.txt").symlink_to(tmp_path / "absent.txt")
    (tmp_path / "raw" / "c.pdf").symlink_to(tmp_path / "absent.pdf")  # no file that would be read
    assert biomlm(["corpus", "build", "--text", f"{tmp_path}/raw", "--out", f"{tmp_path}/out"]) == 2
    assert "raw/b.txt: this is a link to a file that is not there" in capsys.readouterr().err
