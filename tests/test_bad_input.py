"""Mistakes that newcomers make, through the real commands: exit code 2, one or two lines, a remedy, and nothing half-written."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from biomlm.core import cli
from biomlm.core.files import read_json

RECORD = (
    "<PubmedArticle><MedlineCitation><PMID Version='1'>{n}</PMID><Article><ArticleTitle>Title {n} of a heart study.</ArticleTitle>"
    "<Abstract><AbstractText>Treatment {n} protects the heart of the patient. It was given to {n} patients for a year.</AbstractText>"
    "</Abstract></Article></MedlineCitation></PubmedArticle>\n"
)


def pubmed(records: int) -> bytes:
    return (
        "<PubmedArticleSet>" + "".join(RECORD.format(n=n) for n in range(1, records + 1)) + "</PubmedArticleSet>"
    ).encode()


@pytest.fixture
def two_lines(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail as the user's mistake; what it says."""

    def run(*argv: object) -> str:
        capsys.readouterr()
        assert cli.run([str(word) for word in argv]) == 2
        said = capsys.readouterr().err
        lines = [line for line in said.splitlines() if " gone " not in line]  # progress of what came before the mistake
        assert 1 <= len(lines) <= 2, said
        assert "Traceback" not in said
        return said

    return run


def test_wrong_paths(two_lines: Callable[..., str], tmp_path: Path) -> None:
    missing, out = tmp_path / "missing", tmp_path / "out"
    for argv in (
        ("corpus", "build", "--pubmed", missing, "--out", out),
        ("corpus", "stats", missing),
        ("tokenizer", "train", "--docs", missing, "--out", out),
        ("tokenizer", "encode", "--docs", missing, "--tokenizer", missing, "--out", out),
        ("pretrain", "--shards", missing, "--out", out),
        ("distill", "--shards", missing, "--teacher", missing, "--out", out),
        ("convert", missing, out, "--to", "hf"),
        ("convert", "fill", missing, "--sentences", "A <mask>."),
        ("finetune", "--model", missing, "--task", "ner", "--data", missing, "--out", out),
        ("report", missing, "--out", tmp_path / "r.html"),
        ("launch", missing, "--out", out),
    ):
        assert str(missing) in two_lines(*argv)
        assert not out.exists() or not any(out.iterdir()), f"{argv[:2]} left something behind"


def test_an_empty_corpus(two_lines: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty.xml").write_bytes(b"<PubmedArticleSet></PubmedArticleSet>")
    two_lines("corpus", "build", "--pubmed", tmp_path / "empty.xml", "--out", tmp_path / "docs")
    two_lines("corpus", "build", "--out", tmp_path / "docs2")


def test_an_output_folder_of_another_stage(two_lines: Callable[..., str], tiny_docs: Path, tiny_shards: Path) -> None:
    assert "tokenizer encode" in two_lines(
        "tokenizer", "train", "--docs", tiny_docs, "--vocab_size", 290, "--out", tiny_shards
    )
    assert "corpus build" in two_lines("pretrain", "--shards", tiny_docs, "--out", tiny_docs.parent / "run")


def test_a_truncated_gzip_keeps_what_can_be_read(tmp_path: Path) -> None:
    whole = gzip.compress(pubmed(4000))
    (tmp_path / "cut.xml.gz").write_bytes(whole[: len(whole) // 2])
    assert cli.run(["corpus", "build", "--pubmed", str(tmp_path / "cut.xml.gz"), "--out", str(tmp_path / "docs")]) == 0
    manifest = (tmp_path / "docs" / "manifest.json").read_text()
    documents = sum(
        len(gzip.decompress(path.read_bytes()).splitlines()) for path in (tmp_path / "docs").glob("*/*.jsonl.gz")
    )
    assert 1000 < documents < 4000
    assert "truncated" in manifest or "damaged" in manifest or "cut off" in manifest


def test_damaged_shards_are_named(two_lines: Callable[..., str], tiny_shards: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny_shards, shards)
    data = (shards / "train.bin").read_bytes()
    (shards / "train.bin").write_bytes(data[:-100])
    said = two_lines("pretrain", "--shards", shards, "--out", tmp_path / "run", "--model.size", "tiny", "--steps", 1)
    assert "train.bin" in said


def test_a_vocabulary_larger_than_the_text_supports(
    two_lines: Callable[..., str], tiny_docs: Path, tmp_path: Path
) -> None:
    said = two_lines("tokenizer", "train", "--docs", tiny_docs, "--vocab_size", 50001, "--out", tmp_path / "tokenizer")
    assert "50,001" in said or "50001" in said
    assert not (tmp_path / "tokenizer" / "tokenizer.json").exists()


def test_a_changed_configuration_is_refused_and_the_old_output_stays(
    two_lines: Callable[..., str], tiny_docs: Path, tiny_tokenizer: Path
) -> None:
    before = read_json(tiny_tokenizer / "tokenizer.json")
    said = two_lines("tokenizer", "train", "--docs", tiny_docs, "--vocab_size", 280, "--out", tiny_tokenizer)
    assert "vocab_size" in said
    assert read_json(tiny_tokenizer / "tokenizer.json") == before
