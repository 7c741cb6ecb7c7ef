"""The salt of patients' hashes: where it may come from, what is refused, and that it is written nowhere."""

import csv
import gzip
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

from biomlm.core.cli import run as biomlm

SECRET = "0f3cSECRETsalt9d41"


@pytest.fixture(autouse=True)
def no_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIOMLM_SALT")


@pytest.fixture
def source(tmp_path: Path, make: Any) -> Path:
    """Sixty notes of twenty patients."""
    rows = [(1000 + i, i // 3, "", f"Chief Complaint: pain no. {i}\n\nThe patient is stable today.") for i in range(60)]
    return make.notes(tmp_path / "NOTEEVENTS.csv.gz", rows)


@pytest.fixture
def salt_file(tmp_path: Path) -> Path:
    file = tmp_path / "salt"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    return file


def build(source: Path, out: Path, *more: object) -> int:
    return biomlm(["corpus", "build", "--notes", str(source), "--out", str(out), *map(str, more)])


def documents(out: Path, split: str = "*") -> list[dict[str, Any]]:
    return [orjson.loads(line) for path in sorted(out.glob(f"{split}/*.jsonl.gz")) for line in gzip.open(path)]


def contents(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*.gz"))}


def test_notes_without_a_salt_are_refused_with_a_command_that_makes_one(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(source, tmp_path / "docs") == 2
    said = capsys.readouterr().err
    assert "notes need a secret salt" in said
    command = said.split("`")[1]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert (tmp_path / "salt").stat().st_mode & 0o777 == 0o600
    assert build(source, tmp_path / "docs", "--salt_file", tmp_path / "salt") == 0


@pytest.mark.parametrize("words", [["--salt", SECRET], [f"--salt={SECRET}"]])
def test_a_salt_is_no_argument(
    words: list[str], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(source, tmp_path / "docs", *words) == 2
    said = capsys.readouterr().err
    assert "--salt_file" in said
    assert SECRET not in said


def test_a_file_and_both_variables_give_the_same_bytes(
    source: Path, salt_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build(source, tmp_path / "file", "--salt_file", salt_file) == 0
    for name in ("BIOMLM_SALT", "BIOLM_SALT"):
        with monkeypatch.context() as patch:
            patch.setenv(name, SECRET)
            assert build(source, tmp_path / name) == 0
            assert contents(tmp_path / name) == contents(tmp_path / "file")
            patch.setenv(name, SECRET + "x")
            assert build(source, tmp_path / f"{name}x") == 0
            assert contents(tmp_path / f"{name}x") != contents(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (SECRET.encode(), 0o644, "others may read this salt (mode 644)"),
        (SECRET.encode(), 0o640, "others may read this salt (mode 640)"),
        (SECRET.encode(), 0o601, "others may read this salt (mode 601)"),
        (b"\n", 0o600, "it has no bytes"),
        (b"", 0o600, "it has no bytes"),
        (b"a" * 5000, 0o600, "it has too many bytes"),
        (b"\xff\xfe\x00", 0o600, "not UTF-8"),
        (None, 0o600, "the salt cannot be read (No such file or directory)"),
    ],
)
def test_files_that_are_no_salt(
    content: bytes | None, mode: int, said: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "salt"
    if content is not None:
        file.write_bytes(content)
        file.chmod(mode)
    assert build(source, tmp_path / "docs", "--salt_file", file) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 2
    assert SECRET not in error


def test_two_salts_are_refused(
    source: Path, salt_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BIOMLM_SALT", "another")
    assert build(source, tmp_path / "docs", "--salt_file", salt_file) == 2
    said = capsys.readouterr().err
    assert "hold different salts" in said
    assert "another" not in said
    monkeypatch.setenv("BIOMLM_SALT", SECRET)
    assert build(source, tmp_path / "docs", "--salt_file", salt_file) == 0


def test_the_salt_is_written_nowhere_not_even_for_other_machines(
    source: Path, salt_file: Path, tmp_path: Path, slurm: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The stand-in for sbatch keeps what datatrove pickles and logs for the tasks, which is gone when the build is done."""
    more = ["--where.executor", "slurm", "--where.partition", "any"]
    assert build(source, tmp_path / "docs", "--salt_file", salt_file, *more) == 0
    written = [p for folder in (tmp_path / "docs", slurm) for p in folder.rglob("*") if p.is_file()]
    assert any(p.name == "executor.pik" for p in written)
    for path in written:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert SECRET.encode() not in data, path
        assert hashlib.sha256(SECRET.encode()).hexdigest().encode() not in data, path
    assert SECRET not in "".join(capfd.readouterr())


def test_hashes_and_splits_are_those_of_keyed_blake2b(source: Path, salt_file: Path, tmp_path: Path) -> None:
    """Recounted from the table by itself: hashes of patients, and who is held out."""
    assert build(source, tmp_path / "docs", "--salt_file", salt_file, "--valid_fraction", "0.3") == 0
    key = hashlib.blake2b(SECRET.encode(), digest_size=32).digest()
    wanted: dict[str, str] = {}
    with gzip.open(source, "rt", newline="") as rows:
        for row in csv.DictReader(rows):
            wanted[f"note:{row['ROW_ID']}"] = hashlib.blake2b(
                row["SUBJECT_ID"].encode(), key=key, digest_size=8
            ).hexdigest()
    found = {d["id"]: d["metadata"]["patient"] for d in documents(tmp_path / "docs")}
    assert found == wanted
    held = {
        patient
        for patient in wanted.values()
        if int(hashlib.blake2b(f"{SECRET}\x1f{patient}".encode(), digest_size=8).hexdigest(), 16) < 0.3 * 2**64
    }
    assert held
    assert {d["metadata"]["patient"] for d in documents(tmp_path / "docs", "valid")} == held


def test_a_public_or_short_salt_is_said(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    public = Path(__file__).parents[2] / "demo" / "data" / "salt"
    assert public.read_text() == "biolm\n"
    assert build(source, tmp_path / "docs", "--salt_file", public) == 0
    assert "public: fit for made-up notes only" in capsys.readouterr().out
    monkeypatch.setenv("BIOMLM_SALT", "short")
    assert build(source, tmp_path / "short") == 0
    assert "it can be found by trying" in capsys.readouterr().out


def test_another_salt_is_noticed(
    source: Path, salt_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(source, tmp_path / "docs", "--salt_file", salt_file) == 0
    monkeypatch.setenv("BIOMLM_SALT", "another salt for it")
    assert build(source, tmp_path / "docs") == 2
    assert "the folder was made with another configuration: salt (" in capsys.readouterr().err


@pytest.mark.parametrize("salt", [SECRET, "biolm"])
def test_old_folders_go_on(salt: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder as version 1 left it when it was killed, then as it left it when done: SHA-256 of the salt, config_hash over it."""
    monkeypatch.setenv("BIOMLM_SALT", salt)
    assert build(source, tmp_path / "new") == 0
    manifest = json.loads((tmp_path / "new" / "manifest.json").read_bytes())
    old = json.loads((tmp_path / "new" / "manifest.json").read_bytes())
    old["config"]["salt"] = hashlib.sha256(salt.encode()).hexdigest()
    for name in ("salt_file", "text_unit", "translations", "file_seconds"):  # which were added later
        del old["config"][name]
    for name in ("categories", "journals"):
        del old["config"]["select"][name]
    runtime = ("out", "workers", "where", "override")
    decisive = {name: value for name, value in old["config"].items() if name not in runtime}
    old["config_hash"] = hashlib.sha256(orjson.dumps(decisive, option=orjson.OPT_SORT_KEYS)).hexdigest()
    assert (old["config_hash"] == manifest["config_hash"]) == (salt == "biolm")

    done = tmp_path / "done"
    (tmp_path / "new").rename(done)
    (done / "manifest.json").write_text(json.dumps(old))
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*")}
    assert build(source, done) == 0
    assert before == {p: p.stat().st_mtime_ns for p in done.rglob("*")}

    killed = tmp_path / "killed"
    (killed / ".work" / "parts").mkdir(parents=True)
    (killed / "manifest.json").write_text(json.dumps(old | {"status": "running", "counts": {}, "outputs": {}}))
    assert build(source, killed) == 0
    assert contents(killed) == contents(done)
    assert json.loads((killed / "manifest.json").read_bytes())["config_hash"] == old["config_hash"]
    monkeypatch.setenv("BIOMLM_SALT", "another salt for it")
    assert build(source, done) == 2


def test_a_build_without_notes_needs_none_and_keeps_its_hash(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "Some plain text of six words."}\n' * 3)
    assert biomlm(["corpus", "build", "--text", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "docs")]) == 0
    stored = json.loads((tmp_path / "docs" / "manifest.json").read_bytes())["config"]
    assert stored["salt"] == hashlib.sha256(b"biolm").hexdigest()
