"""`tokenizer compare`: the figures of a table are what one gets by counting."""

from pathlib import Path

import pytest

from biolm.core import cli
from biolm.tokenizer import compare, folder


def test_figures_are_what_counting_gives(tok: Path, docs: Path) -> None:
    tokenizer = folder.load(tok)
    found = compare.sample(docs, "valid", 3)
    figures = compare.measure(tokenizer, found)
    words = [word for counter in found.words.values() for word in counter.elements()]
    pieces = [len(tokenizer.encode(f" {word}")) for word in words]
    tokens = sum(len(tokenizer.encode(text)) for text in found.texts)
    assert figures.whole == pytest.approx(sum(n == 1 for n in pieces) / len(words))
    mean = sum(figures.pieces_per_word[s] * c.total() for s, c in found.words.items()) / len(words)
    assert mean == pytest.approx(sum(pieces) / len(pieces))
    assert figures.bytes_per_token == pytest.approx(sum(len(t.encode()) for t in found.texts) / tokens)
    assert figures.window == pytest.approx(510 * len(words) / tokens)


def test_the_verb_prints_a_column_for_each(tok: Path, docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["tokenizer", "compare", str(tok), str(tok), "--docs", str(docs)]) == 0
    output = capsys.readouterr().out
    assert output.count("2,000") == 2
    assert "words kept whole" in output


def test_mistakes_are_said(tok: Path, docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["tokenizer", "compare", str(tmp_path / "no"), "--docs", str(docs)]) == 2
    assert cli.run(["tokenizer", "compare", str(tok), "--docs", str(docs), "--split", "test"]) == 2
    assert "the test split has no words" in capsys.readouterr().err
