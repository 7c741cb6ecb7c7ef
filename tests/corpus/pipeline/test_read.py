"""A file that takes too long is set aside and counted, and the build goes on with the others."""

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from datatrove.data import Document

from biomlm.core.cli import run as biomlm
from biomlm.core.files import read_json
from biomlm.corpus.readers.text import TextReader
from biomlm.corpus.text.document import sentences

SLOW = re.compile(r"(a|aa)+$")  # takes time that doubles with every letter


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("first", "slow", "third"):
        lines = [orjson.dumps({"text": f"Sentence {i} of the {name} file stands here."}) for i in range(5)]
        (folder / f"{name}.jsonl").write_bytes(b"\n".join(lines))
    return folder


def build(raw: Path, out: Path, *more: str) -> dict[str, Any]:
    assert biomlm(["corpus", "build", "--text", str(raw), "--out", str(out), "--valid_fraction", "0", *more]) == 0
    counts = read_json(out / "manifest.json")["counts"]
    assert isinstance(counts, dict)
    return counts


def slowly(text: str, **options: Any) -> list[tuple[int, int]]:
    """Split sentences, and take more than a second for those of one document."""
    if text.startswith("Sentence 0 of the slow"):
        time.sleep(1.1)
    return sentences(text, **options)


@pytest.mark.parametrize("stuck_in", ["a pattern", "a step behind the reader", "an except clause"])
def test_a_file_whose_time_is_up_is_set_aside(
    stuck_in: str, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_file = TextReader.read_file

    def slow(self: TextReader, filepath: str) -> Iterator[Document]:
        for number, document in enumerate(read_file(self, filepath)):
            if filepath == "slow.jsonl" and number == 2:
                if stuck_in == "a pattern":
                    SLOW.match("a" * 200 + "b")
                elif stuck_in == "an except clause":
                    try:
                        SLOW.match("a" * 200 + "b")
                    except Exception:
                        pytest.fail("taken for damage")
            yield document

    monkeypatch.setattr(TextReader, "read_file", slow)
    if stuck_in == "a step behind the reader":
        monkeypatch.setattr("biomlm.corpus.text.document.sentences", slowly)
    counts = build(raw, tmp_path / "docs", "--file_seconds", "1")
    assert counts["sources"]["text"]["dropped"]["time limit"] == 1
    kept = 11 if stuck_in == "a step behind the reader" else 12
    assert counts["sources"]["text"]["kept"] == kept
    assert counts["sources"]["text"]["records"] == kept + 1
    (problem,) = counts["problems"]
    assert re.fullmatch(r"slow\.jsonl: 1 s are up after record \d", problem)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_files_that_are_quick_enough_are_whole(raw: Path, tmp_path: Path) -> None:
    free, limited = build(raw, tmp_path / "free"), build(raw, tmp_path / "limited", "--file_seconds", "100")
    assert free == limited
    read = [(tmp_path / name / "train" / "00000.jsonl.gz").read_bytes() for name in ("free", "limited")]
    assert read[0] == read[1]
