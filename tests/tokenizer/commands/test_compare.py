"""`tokenizer compare`: the figures of a table are what one gets by counting."""

import gzip
from collections import Counter
from pathlib import Path

import orjson
import pytest

from biomlm.core import cli
from biomlm.core.errors import DataError
from biomlm.core.manifest import Manifest
from biomlm.tokenizer import terms
from biomlm.tokenizer.commands import compare
from biomlm.tokenizer.formats import folder


def test_figures_are_what_counting_gives(tok: Path, docs: Path) -> None:
    tokenizer = folder.load(tok)
    found = compare.draw_sample(compare.CompareConfig(tokenizers=[], docs=str(docs), documents=3))
    figures = compare.measure(tokenizer, found)
    words = [word for counter in found.words.values() for word in counter.elements()]
    pieces = [len(tokenizer.encode(f" {word}")) for word in words]
    tokens = sum(len(tokenizer.encode(text)) for text in found.texts)
    assert figures.whole == pytest.approx(sum(n == 1 for n in pieces) / len(words))
    mean = sum(figures.pieces_per_word[s] * c.total() for s, c in found.words.items()) / len(words)
    assert mean == pytest.approx(sum(pieces) / len(pieces))
    assert figures.bytes_per_token == pytest.approx(sum(len(t.encode()) for t in found.texts) / tokens)
    assert figures.window == pytest.approx(510 * len(words) / tokens)
    assert (figures.tokens, sum(found.sentences)) == (tokens, len(found.texts))


def test_documents_that_a_window_cuts_and_what_another_vocabulary_saves(tok: Path, tiny_tokenizer: Path) -> None:
    texts = ["heparin", *[" heparin protects"] * 400, "aspirin"]
    found = compare.Sample({"text": Counter(" ".join(texts).split())}, texts, [401, 1])
    first, second = (compare.measure(folder.load(place), found) for place in (tok, tiny_tokenizer))
    counts = [sum(len(folder.load(place).encode(text)) for text in texts) for place in (tok, tiny_tokenizer)]
    assert (first.tokens, second.tokens) == tuple(counts)
    assert first.cut == second.cut == 0.5
    shown = compare.rows([first, second])
    assert shown["tokens, against the first"] == ["+0.0%", f"{counts[1] / counts[0] - 1:+.1%}"]
    pieces = [set(folder.load(place).pieces) for place in (tok, tiny_tokenizer)]
    share = len(pieces[0] & pieces[1]) / len(pieces[1])
    assert shown["pieces that the first has too"] == ["100.0%", f"{share:.1%}"]


def test_the_sample_is_drawn_from_all_documents(tmp_path: Path) -> None:
    """Sources lie behind one another: each has its share of the sample, within four standard deviations."""
    counts = {"pubmed": 900, "notes": 300}
    (tmp_path / "valid").mkdir()
    for number, (source, count) in enumerate(counts.items()):
        lines = [
            orjson.dumps(
                {"text": f"{source}{i}", "id": f"{source}:{i}", "metadata": {"source": source, "sentences": [[0, 6]]}},
                option=orjson.OPT_APPEND_NEWLINE,
            ).replace(b"[[0,6]]", b"[[0,%d]]" % len(f"{source}{i}"))
            for i in range(count)
        ]
        (tmp_path / "valid" / f"{number:05}.jsonl.gz").write_bytes(gzip.compress(b"".join(lines)))
    Manifest("corpus build", {}, "x").finish(tmp_path, [], {})
    found = compare.draw_sample(compare.CompareConfig(tokenizers=[], docs=str(tmp_path), documents=400))
    notes = found.words["notes"].total()
    assert (found.words["pubmed"].total() + notes, len(found.texts)) == (400, 400)
    assert abs(notes - 100) < 4 * (400 * 0.25 * 0.75) ** 0.5
    places = [int(text.removeprefix("pubmed")) for text in found.texts if text.startswith("pubmed")]
    assert places == sorted(places)
    assert max(places) > 850
    whole = compare.draw_sample(compare.CompareConfig(tokenizers=[], docs=str(tmp_path), documents=1200))
    assert whole.texts == [f"{source}{i}" for source, count in counts.items() for i in range(count)]


def test_the_verb_prints_a_column_for_each(tok: Path, docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["tokenizer", "compare", str(tok), str(tok), "--docs", str(docs)]) == 0
    output = capsys.readouterr().out
    assert output.count("2,000") == 2
    assert "words kept whole" in output


def test_mistakes_are_said(tok: Path, docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["tokenizer", "compare", str(tmp_path / "no"), "--docs", str(docs)]) == 2
    assert cli.run(["tokenizer", "compare", str(tok), "--docs", str(docs), "--split", "test"]) == 2
    assert "the test split has no words" in capsys.readouterr().err


def test_entities_are_read_from_iob_tags(tmp_path: Path) -> None:
    file = tmp_path / "NCBI" / "train.tsv"
    file.parent.mkdir()
    file.write_text("A\tO\nfamilial\tB-Disease\ncancer\tI-Disease\nHNPCC\tB-Disease\n\nAPC\tB\n\nx\tO\nAPC\tB\n")
    assert terms.read(file) == ["APC", "HNPCC", "familial cancer"]
    assert terms.name_of(file) == "NCBI/train"


def test_a_file_without_terms_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match="no terms"):
        terms.read(tmp_path / "empty.txt")
    with pytest.raises(DataError, match=r"no such file[^`]*Give a term a line"):
        terms.read(tmp_path / "absent.txt")


def test_terms_and_examples_come_on_the_page(tok: Path, docs: Path, tmp_path: Path) -> None:
    (tmp_path / "mesh.txt").write_text("Humans\nAged\nDopamine Agonists\n")
    page = tmp_path / "page.md"
    argv = ["tokenizer", "compare", str(tok), "--docs", str(docs), "--terms", str(tmp_path / "mesh.txt")]
    assert cli.run([*argv, "--page", str(page)]) == 0
    tokenizer = folder.load(tok)
    pieces = {
        term: sum(len(tokenizer.encode(f" {word}")) for word in term.split())
        for term in terms.read(tmp_path / "mesh.txt")
    }
    text = page.read_text(encoding="utf-8")
    assert f"| pieces per term: mesh | {sum(pieces.values()) / 3:.2f} |" in text
    whole = sum(pieces[term] == len(term.split()) for term in pieces) / 3
    assert f"| terms kept whole: mesh | {whole:.1%} |" in text
    assert "| Dopamine Agonists | " in text
