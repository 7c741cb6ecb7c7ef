"""Plain text: what a document of a file is, asked or found out; ids and links of rows."""

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest

from biomlm.core.cli import run as biomlm
from biomlm.core.manifest import read_manifest
from biomlm.corpus.documents import document_files, documents
from biomlm.corpus.filters.language import language
from biomlm.corpus.readers import text as text_reader
from biomlm.corpus.readers.text import TextReader

LINES = [f"Sentence number {i} of the file." for i in range(40)]


def read(path: Path, **options: Any) -> list[str]:
    return [d.text for d in TextReader(str(path.parent), **options).read_file(path.name)]


@pytest.mark.parametrize(
    ("text", "unit", "texts"),
    [
        ("\n".join(LINES), "line", LINES),
        ("\n".join(LINES), "file", ["\n".join(LINES)]),
        ("a b\nc d\n\n \ne f", "paragraph", ["a b\nc d", "e f"]),
        ("a b\n\nc d\n", "line", ["a b", "c d"]),
    ],
)
def test_units_that_are_asked_for(text: str, unit: Any, texts: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert read(tmp_path / "a.txt", unit=unit) == texts


@pytest.mark.parametrize(
    ("separator", "documents_of_it"),
    [("\n", LINES), ("\n\n", LINES), (" and so\n", None)],
    ids=["lines", "paragraphs", "one text"],
)
def test_long_files_are_looked_at(
    separator: str, documents_of_it: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(separator.join(LINES).encode()))
    assert len(read(tmp_path / "a.txt.gz")) == 1
    monkeypatch.setattr(text_reader, "ONE_DOCUMENT", 500)
    assert len(read(tmp_path / "a.txt.gz")) == len(documents_of_it or [""])


def test_what_was_found_out_is_said_and_an_option_without_text_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_bytes("\n".join(LINES).encode() + b"\n\xe9\xff\x81 \xc3\xa9\n")
    words = ["corpus", "build", "--out", str(tmp_path / "docs"), "--text_unit", "line"]
    assert biomlm([*words, "--text", f"{tmp_path}/a.txt"]) == 0
    assert "documents of a line each" in capsys.readouterr().out
    counts = read_manifest(tmp_path / "docs", "corpus build").counts
    assert counts["units"] == {"line": 40}
    assert counts["sources"]["text"]["dropped"] == {"damaged": 1}
    assert biomlm([*words, "--pubmed", f"{tmp_path}/a.txt"]) == 2
    assert "--text" in capsys.readouterr().err


def test_rows_keep_their_ids_and_links(tmp_path: Path) -> None:
    rows = [
        {"id": "mine:1", "text": "The first of the texts here.", "links": ["pmid:2"]},
        {"id": 7, "text": "The second of the texts here.", "metadata": {"links": ["pmid:3"]}},
        {"text": "The third of the texts here."},
        {"id": "mine:1", "text": "Another text under the first id."},
        {"text": "Its links are no list at all.", "links": 5},
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    out = tmp_path / "docs"
    assert biomlm(["corpus", "build", "--text", f"{tmp_path}/a.jsonl", "--out", str(out), "--valid_fraction", "0"]) == 0
    written = {d["id"]: d["metadata"]["links"] for path in document_files(out, "train") for d in documents(path)}
    assert written == {"mine:1": ["pmid:2"], "7": ["pmid:3"], "text:a.jsonl:3": [], "mine:1@a.jsonl:4": []}
    assert read_manifest(out, "corpus build").counts["sources"]["text"]["dropped"] == {"text is no string": 1}


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (
            "sv",
            "Patienten kom till akuten med smärta i bröstet sedan två dagar och har haft feber. Vid undersökning fanns inga tecken på",
        ),
        (
            "da",
            "Patienten blev indlagt med smerter og åndenød siden i går. Der blev taget prøver og et billede som viste væske på",
        ),
        (
            "tr",
            "Hasta iki gündür devam eden ağrı nedeniyle acil servise başvurdu. Muayenede bir özellik "
            "saptanmadı ancak troponin yüksek bulundu ve hasta",
        ),
        (
            "cs",
            "Pacient byl přijat na oddělení pro bolesti na hrudi. Při vyšetření nebyly nalezeny žádné známky, "
            "ale výsledky jsou vyšší a po dvou",
        ),
        (
            "id",
            "Pasien datang ke unit dengan keluhan nyeri dada sejak dua hari yang lalu. Pemeriksaan tidak "
            "menunjukkan kelainan tetapi hasil untuk darah",
        ),
        (
            "en",
            "The patient came to the ward with pain in the chest for two days and has had fever. There were no signs of",
        ),
    ],
)
def test_these_do_not_pass_for_english(code: str, text: str) -> None:
    assert language(text) == code
