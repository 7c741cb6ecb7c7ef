"""`tokenizer train`: the same text gives the same bytes, and what the text cannot support is refused with both numbers."""

import math
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers import ByteLevelBPETokenizer

from biomlm.core import cli
from biomlm.core.errors import DataError
from biomlm.core.manifest import read_manifest
from biomlm.corpus.documents import document_files
from biomlm.tokenizer import documents
from biomlm.tokenizer.formats import bytelevel, folder
from biomlm.tokenizer.learning import count, spill
from biomlm.tokenizer.workers import pool


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
    for file in document_files(docs, "train"):
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
    assert (counts["documents"], counts["other sources"]) == (38, 76)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--vocab_size", "50001"), ("50001", "supports 6166")),
        (("--vocab_size", "100"), ("100", "261")),
        (("--sources", "notes"), ("no documents of the source notes", "It has pmc, pubmed")),
        (("--kind", "bpee"), ("bpee",)),
        (("--lowercase",), ("bpe is always cased",)),
        (("--sample", "0"), ("share of the documents",)),
        (("--weights", '{"pmc": -1}'), ("0.001 or more",)),
        (("--sources", "pmc", "--weights", '{"pubmed": 2}'), ("left out",)),
        (("--kind", "gatortron", "--min_frequency", "3"), ("gatortron has no min_frequency",)),
        (("--kind", "wordpiece", "--vocab_size", "90000"), ("90000", "the text supports")),
        (("--kind", "wordpiece", "--vocab_size", "50"), ("50", "special tokens", "symbols")),
        (("--kind", "sentencepiece-bpe", "--vocab_size", "90000"), ("90000", "the text supports")),
        (("--kind", "sentencepiece-unigram", "--vocab_size", "90000"), ("90000", "the text supports")),
        (("--kind", "gatortron", "--vocab_size", "120"), ("SentencePiece cannot learn",)),
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


def test_little_memory_spills_and_gives_the_same_bytes(
    tok: Path, docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    write = spill.write
    monkeypatch.setattr(count, "BUFFER", 10_000)
    monkeypatch.setattr(count, "BATCH", 100)
    monkeypatch.setattr(spill, "BATCH", 100)
    monkeypatch.setattr(count.CountTable, "size", 1 << 40)  # as if the memory were always used up
    monkeypatch.setattr(spill, "write", lambda path, words: (written.append(path), write(path, words)))
    assert train(docs, tmp_path / "tok", "--vocab_size", "2000", "--workers", "1") == 0
    assert len(written) > 10
    assert read_manifest(tmp_path / "tok", "tokenizer train").outputs == read_manifest(tok, "tokenizer train").outputs
    assert not (tmp_path / "tok" / ".work").exists()


def test_no_word_is_left_out_and_the_most_frequent_come_first(
    docs: Path, tmp_path: Path, abstracts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(count, "BUFFER", 10_000)
    monkeypatch.setattr(count.CountTable, "size", 1 << 40)
    found = count.count(document_files(docs, "train"), what(), 1, tmp_path)
    expected = Counter(word for text in abstracts for word in bytelevel.split(text))
    assert dict(found.items()) == expected
    assert [times for _, times in found.items()] == sorted(expected.values(), reverse=True)
    assert found.words.sum() == len(expected)
    assert found.sizes.sum() + 1 == len(found.text)


def what(**options: Any) -> count.CountOptions:
    standard = {"weights": {}, "only_named": False, "sample": 1.0, "seed": 1, "memory": 1 << 30}
    return count.CountOptions(split=bytelevel.split, starts=bytelevel.ascii_starts, **{**standard, **options})


def counted(docs: Path, tmp_path: Path, **options: Any) -> tuple[dict[str, int], count.Tally]:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    found = count.count(document_files(docs, "train"), what(**options), 1, folder)
    return dict(found.items()), found.tally


def test_weights_multiply_the_counts_of_a_source(docs: Path, tmp_path: Path) -> None:
    pmc, _ = counted(docs, tmp_path, weights={"pmc": 1}, only_named=True)
    pubmed, _ = counted(docs, tmp_path, weights={"pubmed": 1}, only_named=True)
    both, _ = counted(docs, tmp_path, weights={"pubmed": 2.5})
    assert both == {w: math.floor(pmc.get(w, 0) + 2.5 * pubmed.get(w, 0) + 0.5) for w in pmc | pubmed}


def test_a_sample_is_a_share_of_the_documents_and_depends_on_the_seed(docs: Path, tmp_path: Path) -> None:
    words, tally = counted(docs, tmp_path, sample=0.5)
    assert tally.documents + tally.not_sampled == 114
    assert 35 < tally.documents < 80
    assert counted(docs, tmp_path, sample=0.5)[0] == words
    assert counted(docs, tmp_path, sample=0.5, seed=2)[0] != words


def test_another_size_may_be_tried_after_one_that_is_too_large(docs: Path, tmp_path: Path) -> None:
    assert train(docs, tmp_path / "tok", "--vocab_size", "50001", "--workers", "1") == 2
    assert train(docs, tmp_path / "tok", "--vocab_size", "1000", "--workers", "1") == 0


def test_a_worker_that_the_system_ends_is_said() -> None:
    with pytest.raises(DataError, match="ended by the system"), pool(1, int) as processes:
        processes.submit(os._exit, 1).result()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--weights", '{"note": 2.5}'), "note"),
        (("--sources", "[pubmed, pcm]"), "pcm"),
        (("--sources", "[pubmed]", "--weights", '{"pubmed": 2.5}', "--sample", "0.0001"), ""),
    ],
)
def test_a_source_that_the_documents_lack_is_refused(
    docs: Path, tmp_path: Path, options: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(docs, tmp_path / "tok", "--vocab_size", "1000", "--workers", "2", *options) == 2
    said = capsys.readouterr().err
    assert f"no documents of the source {named}" in said if named else "no documents of the source" not in said
    assert "pmc" in said if named else "no text" in said
    assert not (tmp_path / "tok" / "tokenizer.json").exists()
