"""A document that is too long to be held gives the same words as it would whole, whatever it holds."""

import gzip
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomlm.core import cli
from biomlm.core.errors import DataError
from biomlm.core.manifest import Manifest
from biomlm.tokenizer import documents
from biomlm.tokenizer.formats import bytelevel
from biomlm.tokenizer.learning import count, text_chunks

SPACES = [chr(c) for c in range(0x3001) if chr(c).isspace()]
ALPHABET = [*SPACES, *"   abc.", '"', "\\", "\0", "\x1f", "µ", "的", "\u2019", "\U0001f600", "\ud7ff"]
Write = Callable[[Any], bytes]
WRITERS: list[Write] = [
    orjson.dumps,
    lambda raw: json.dumps(raw).encode(),  # all that is not ASCII in escapes, blanks behind marks
    lambda raw: json.dumps({key: raw[key] for key in sorted(raw)}).encode(),  # the text does not come first
]


def line(text: str, sentences: list[Any], name: str = "text:a:0") -> dict[str, Any]:
    return {"text": text, "id": name, "metadata": {"source": "text", "sentences": sentences}}


def write(path: Path, rows: list[bytes]) -> Path:
    path.write_bytes(gzip.compress(b"\n".join(rows)))
    return path


def counted(path: Path, folder: Path) -> tuple[dict[str, int], count.Tally]:
    what = count.CountOptions(bytelevel.split, bytelevel.ascii_starts, {}, False, 1.0, 1, 1 << 30)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        found = count.count([path], what, 1, Path(work))
        return dict(found.items()), found.tally


def small(patched: pytest.MonkeyPatch, block: int = 8, long: int = 40) -> None:
    patched.setattr(text_chunks, "LONG", long)
    patched.setattr(text_chunks, "BLOCK", block)
    patched.setattr(text_chunks, "NEAR", 16)


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, list[list[int]]]:
    """A text and its sentences, some of which touch; between the others stands white space."""
    text, sentences = draw(st.text(st.sampled_from(SPACES), max_size=30)), []
    for _ in range(draw(st.integers(0, 6))):
        sentence = draw(st.text(st.sampled_from(ALPHABET), max_size=40))
        sentences.append([len(text), len(text) + len(sentence)])
        text += sentence + draw(st.text(st.sampled_from(SPACES), max_size=3))
    return text, sentences


def words(document: documents.Document) -> list[str]:
    return document.text.split() if document.parted else document.joined().split()


@settings(max_examples=300, deadline=None)
@given(cut_texts(), st.sampled_from(WRITERS), st.integers(1, 20))
def test_no_word_is_cut_and_only_the_first_opens(text: tuple[str, list[list[int]]], writer: Write, block: int) -> None:
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patched:
        path = write(Path(place) / "d.jsonl.gz", [writer(line(*text))])
        (whole,) = documents.read(path)
        small(patched, block)
        found = list(text_chunks.read(path, Path(place)))
    assert [word for stretch, _ in found for word in words(stretch)] == words(whole)
    assert "".join(stretch.text for stretch, _ in found) == whole.text
    assert [opens for _, opens in found] == [True] + [False] * (len(found) - 1)
    assert bool(words(found[0][0])) == bool(words(whole))


@settings(max_examples=30, deadline=None)
@given(st.lists(cut_texts(), min_size=1, max_size=3), st.sampled_from(WRITERS), st.integers(1, 20))
def test_words_and_counts_are_those_of_the_whole_document(
    texts: list[tuple[str, list[list[int]]]], writer: Write, block: int
) -> None:
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patched:
        folder = Path(place)
        path = write(folder / "d.jsonl.gz", [writer(line(*text, f"text:a:{n}")) for n, text in enumerate(texts)])
        expected = counted(path, folder)
        small(patched, block)
        assert counted(path, folder) == expected


@pytest.mark.parametrize(
    ("text", "parted"),
    [
        ("word " * 300, True),
        (" \n" * 400 + "first and then", True),
        ("a" * 700 + " b " + "c" * 900, True),
        ("的" * 800, True),
        ("的\U0001f600" * 400, False),  # sentences that touch, and no white space anywhere
        ('\\"\n\t' * 300, True),
        ("\n" * 900 + "x" + "\u2028" * 500 + "y", True),
    ],
)
@pytest.mark.parametrize("writer", WRITERS[:2])
def test_texts_of_unusual_shape(
    text: str, parted: bool, writer: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentences = [[0, len(text)]] if parted else [list(pair) for pair in pairwise(range(0, len(text) + 1, 50))]
    path = write(tmp_path / "d.jsonl.gz", [writer(line(text, sentences)), orjson.dumps(line("a b", [[0, 3]]))])
    expected = counted(path, tmp_path)
    small(monkeypatch)
    assert counted(path, tmp_path) == expected


def test_a_stretch_is_no_longer_than_it_must_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, block=100)
    rng = random.Random(2)
    sentences, text = [], ""
    for n in range(200):
        sentence = " ".join("x" * rng.randint(1, 9) for _ in range(300 if n == 7 else 9))
        sentences.append([len(text), len(text) + len(sentence)])
        text += sentence + " "
    found = list(text_chunks.read(write(tmp_path / "d.jsonl.gz", [orjson.dumps(line(text, sentences))]), tmp_path))
    assert "".join(stretch.text for stretch, _ in found) == text
    assert max(len(stretch.text) for stretch, _ in found) <= 200
    assert [opens for _, opens in found] == [True, *[False] * (len(found) - 1)]


PEAK = """
import re, sys
from pathlib import Path
from biomlm.tokenizer.learning import text_chunks

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

before, path = peak(), Path(sys.argv[1])
print(sum(len(stretch.text) for stretch, _ in text_chunks.read(path, path.parent)), peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what a process took")
def test_a_long_document_takes_little_memory(tmp_path: Path) -> None:
    sentence = "A sentence \u2013 of \U0001f600 some words that stands in the text again and again, and again. "
    text = sentence * 150_000
    sentences = [[n, n + len(sentence) - 1] for n in range(0, len(text), len(sentence))]
    path = write(tmp_path / "d.jsonl.gz", [orjson.dumps(line(text, sentences))])
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
    characters, kib = map(int, done.stdout.split())
    assert characters == len(text)
    assert kib << 10 < 4 * len(text)  # what its text alone takes as one string


def folder_of(place: Path, text: str, sentences: list[list[int]]) -> Path:
    """A folder of documents with one document."""
    (place / "train").mkdir(parents=True)
    file = write(place / "train/00000.jsonl.gz", [orjson.dumps(line(text, sentences))])
    Manifest("corpus build", {}, "").finish(place, [file], {})
    return place


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_the_vocabulary_is_the_same(
    kind: str, abstracts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All abstracts as one document."""
    text = "\n".join(abstracts)
    ends = [0, *(n for n, c in enumerate(text) if c == "\n"), len(text)]
    docs = folder_of(tmp_path / "docs", text, [[a + (a > 0), b] for a, b in pairwise(ends)])
    argv = ["tokenizer", "train", "--docs", str(docs), "--kind", kind, "--vocab_size", "1000", "--workers", "1"]
    assert cli.run([*argv, "--out", str(tmp_path / "whole")]) == 0
    small(monkeypatch, block=1000, long=2000)
    assert cli.run([*argv, "--out", str(tmp_path / "cut")]) == 0
    whole, cut = (
        Manifest(**orjson.loads((tmp_path / name / "manifest.json").read_bytes())) for name in ("whole", "cut")
    )
    assert whole.outputs == cut.outputs
    assert whole.counts == cut.counts


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (orjson.dumps(line("word " * 50, [[0, 100], [90, 250]])), "sentences overlap"),
        (orjson.dumps(line("word " * 50, [[0, 251]])), "run out of the text"),
        (orjson.dumps(line("word " * 50, [[0, 100]])), "leave text out"),
        (orjson.dumps(line("word " * 50, [[-1, 250]])), "sentences overlap"),
        (orjson.dumps(line("word " * 50, ["x"])), "a document has"),
        (orjson.dumps(line("word " * 50, [[2**63, 2**63]])), "a document has"),
        (orjson.dumps({"text": "word " * 50, "id": "a", "metadata": "m"}), "a document has"),
        (orjson.dumps({"text": "word " * 50}), "a document has"),
        (orjson.dumps(line("word " * 50, [[0, 250]]))[:-1], "not valid JSON"),
        (b'{"text": "' + b"word " * 50, "not valid JSON"),
        (b'{"text": "' + b"wo\\qd " * 50 + b'", "metadata": {"sentences": []}}', "not valid JSON"),
        (b'{"text": "' + b"\xe9t\xe9 " * 50 + b'", "metadata": {"sentences": []}}', "not UTF-8"),
        (orjson.dumps(line("x" * 300, [[0, 300]])), "a word of more than 250"),
    ],
)
def test_what_is_wrong_with_a_long_line_is_said(
    raw: bytes, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    monkeypatch.setattr(text_chunks, "LONGEST", 250)
    monkeypatch.setattr(documents, "LONGEST", 250)
    path = write(tmp_path / "d.jsonl.gz", [orjson.dumps(line("a", [[0, 1]])), raw, orjson.dumps(line("b", [[0, 1]]))])
    with pytest.raises(DataError, match=problem) as error:
        list(text_chunks.read(path, tmp_path))
    assert "d.jsonl.gz (line 2" in str(error.value)
