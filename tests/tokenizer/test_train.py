"""`tokenizer train`: the same text gives the same bytes, and what the text cannot support is refused with both numbers."""

from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer

from biolm.core import cli
from biolm.core.manifest import read_manifest
from biolm.corpus import read
from biolm.tokenizer import documents, folder


def train(docs: Path, out: Path, *more: str) -> int:
    return cli.run(["tokenizer", "train", "--docs", str(docs), "--out", str(out), *more])


def test_merges_are_those_of_tokenizers(tok: Path, abstracts: list[str]) -> None:
    theirs = ByteLevelBPETokenizer()
    theirs.train_from_iterator(abstracts, vocab_size=2000 - 5, min_frequency=2, show_progress=False)
    vocab = theirs.get_vocab()
    expected = sorted(vocab, key=vocab.__getitem__)[256:]
    lines = (tok / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert [line.replace(" ", "") for line in lines] == expected


def test_counts_in_the_dictionary_are_those_of_the_encoded_text(tok: Path, docs: Path) -> None:
    tokenizer = folder.load(tok)
    counts = [0] * tokenizer.vocab_size
    for file in read.shards(docs, "train"):
        for document in documents.read(file):
            for i in tokenizer.encode(" ".join(document.text.split())):
                counts[i] += 1
    lines = (tok / "dict.txt").read_text().splitlines()
    assert [int(line.split()[1]) for line in lines] == counts[4:-1]


def test_two_workers_write_the_same_bytes(tok: Path, docs: Path, tmp_path: Path) -> None:
    assert train(docs, tmp_path / "tok", "--vocab_size", "2000", "--workers", "2") == 0
    one, two = read_manifest(tok, "tokenizer train"), read_manifest(tmp_path / "tok", "tokenizer train")
    assert one.outputs == two.outputs
    assert one.fingerprint == two.fingerprint


def test_done_is_done(tok: Path, docs: Path) -> None:
    before = (tok / "tokenizer.json").stat().st_mtime_ns
    assert train(docs, tok, "--vocab_size", "2000") == 0
    assert (tok / "tokenizer.json").stat().st_mtime_ns == before


def test_sources_are_chosen_and_the_rest_counted(docs: Path, tmp_path: Path) -> None:
    assert train(docs, tmp_path / "tok", "--vocab_size", "1000", "--sources", "pmc", "--workers", "1") == 0
    counts = read_manifest(tmp_path / "tok", "tokenizer train").counts
    assert (counts["documents"], counts["documents of other sources"]) == (38, 76)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--vocab_size", "50001"), ("50001", "supports 6166")),
        (("--vocab_size", "100"), ("100", "261")),
        (("--sources", "notes"), ("no text of the sources notes",)),
        (("--kind", "bpee"), ("bpee",)),
    ],
)
def test_mistakes_are_said(
    docs: Path, tmp_path: Path, more: tuple[str, ...], expected: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(docs, tmp_path / "tok", *more, "--workers", "1") == 2
    error = capsys.readouterr().err
    assert all(word in error for word in expected), error
    assert "Traceback" not in error


def test_a_folder_that_is_not_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "absent", tmp_path / "tok") == 2
    assert "there is no such folder" in capsys.readouterr().err
