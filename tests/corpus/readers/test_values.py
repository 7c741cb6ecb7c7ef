"""What the fields of notes and texts hold: flags, ids, nulls, bytes, numbers; ids that unlike texts share; encodings."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from datatrove.data import Document

from biomlm.core.cli import run as biomlm
from biomlm.core.manifest import read_manifest
from biomlm.corpus.documents import documents
from biomlm.corpus.readers.notes import NotesReader
from biomlm.corpus.readers.text import TextReader
from biomlm.corpus.text.document import DROPPED
from biomlm.inputs.values import is_set

TEXT = "The patient was seen in the clinic and sent home."


def notes(tmp_path: Path, rows: list[dict[str, Any]], name: str = "n.jsonl", **options: Any) -> list[Document]:
    (tmp_path / name).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return list(NotesReader(str(tmp_path), salt="s", **options).read_file(name))


def built(tmp_path: Path, *words: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    out = tmp_path.with_name(f"{tmp_path.name}-docs")  # an output lies in no input
    assert biomlm(["corpus", "build", *words, "--out", str(out), "--valid_fraction", "0", "--min_words", "1"]) == 0
    found = [document for path in sorted((out / "train").glob("*.gz")) for document in documents(path)]
    return read_manifest(out, "corpus build").counts, found


@pytest.mark.parametrize(
    "value", ["", " ", "0", "0.0", "false", "False", "FALSE", "f", "no", "None", "nan", False, 0, 0.0, None]
)
def test_no_error(value: Any, tmp_path: Path) -> None:
    assert not is_set(value)
    (note,) = notes(tmp_path, [{"row_id": 1, "iserror": value, "text": TEXT}])
    assert DROPPED not in note.metadata


@pytest.mark.parametrize("value", ["1", "1.0", "true", "True", "t", "yes", "entered in error", True, 1, 1.0])
def test_an_error(value: Any, tmp_path: Path) -> None:
    (note,) = notes(tmp_path, [{"row_id": 1, "iserror": value, "text": TEXT}])
    assert note.metadata[DROPPED] == "marked as an error"


@pytest.mark.parametrize("name", ["n.csv", "n.jsonl"])
def test_an_id_that_went_through_floats_is_the_same(name: str, tmp_path: Path) -> None:
    values = ["1000", "1000.0", " 1000 ", "1000.00"] if name == "n.csv" else [1000, 1000.0, "1000", "1000.0"]
    if name == "n.csv":
        lines = "".join(f"{value},{value},{TEXT}\n" for value in values)
        (tmp_path / name).write_text(f"row_id,subject_id,text\n{lines}")
        found = list(NotesReader(str(tmp_path), salt="s").read_file(name))
    else:
        found = notes(tmp_path, [{"row_id": value, "subject_id": value, "text": TEXT} for value in values])
    assert {note.id for note in found} == {"note:1000"}
    assert len({note.metadata["patient"] for note in found}) == 1


def test_a_text_that_is_none(tmp_path: Path) -> None:
    columns = {"id": "note_id", "patient": "subject_id", "text": "text"}
    values = [None, "", 123, TEXT, ["a b c"], {"k": "v"}, True, 1.5]
    found = notes(tmp_path, [{"note_id": i, "subject_id": i, "text": v} for i, v in enumerate(values)], columns=columns)
    assert [note.metadata.get(DROPPED) for note in found] == [
        "null text",
        None,  # the selection counts it as having no text
        *["text is no string", None, *["text is no string"] * 4],
    ]
    assert [note.metadata["problem"] for note in found if "problem" in note.metadata] == [
        "n.jsonl: line 3, a number",
        "n.jsonl: line 5, a list",
        "n.jsonl: line 6, an object",
        "n.jsonl: line 7, a truth value",
        "n.jsonl: line 8, a number",
    ]
    texts = list(TextReader(str(tmp_path)).read_file("n.jsonl"))
    assert [text.metadata.get(DROPPED) for text in texts] == [note.metadata.get(DROPPED) for note in found]


def test_a_column_may_be_missing_in_the_first_line(tmp_path: Path) -> None:
    rows = [{"row_id": 1, "text": TEXT}, {"row_id": 2, "text": TEXT, "subject_id": 5, "iserror": 1}, {"row_id": 3}]
    found = notes(tmp_path, rows)
    assert [note.metadata.get(DROPPED) for note in found] == [None, "marked as an error", "null text"]
    assert "patient" in found[1].metadata


def test_parquet_of_bytes_and_floats(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="Parquet is read with pyarrow, which is optional")
    from pyarrow import parquet

    columns = {
        "note_id": [b"0", b"1", b"2"],
        "subject_id": [1000.0, None, 1001.0],
        "text": ["naïve".encode(), "naïve".encode("cp1252"), b"caf\x81"],
    }
    parquet.write_table(arrow.table(columns), tmp_path / "n.parquet")
    found = list(NotesReader(str(tmp_path), salt="s").read_file("n.parquet"))
    assert [(note.id, note.text) for note in found[:2]] == [("note:0", "naïve"), ("note:1", "naïve")]
    assert found[2].metadata["problem"] == "n.parquet: row 3, bytes that are neither UTF-8 nor cp1252"
    (one,) = notes(tmp_path, [{"row_id": 1, "subject_id": 1000, "text": TEXT}])
    assert found[0].metadata["patient"] == one.metadata["patient"]
    assert "patient" not in found[1].metadata


def test_metadata_of_texts_may_be_numbers(tmp_path: Path) -> None:
    rows = [{"text": TEXT, "pmid": 12, "year": 2011}, {"text": "Other.", "pmid": "13.0", "year": "2012"}]
    (tmp_path / "t.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    _, found = built(tmp_path, "--text", f"{tmp_path}/t.jsonl")
    assert [(d["metadata"]["pmid"], d["metadata"]["year"]) for d in found] == [("12", 2011), ("13", 2012)]


def test_unlike_texts_with_one_id_are_both_kept(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        lines = [orjson.dumps({"text": f"Text {i} of {folder if i else 'both'}."}) + b"\n" for i in range(3)]
        (tmp_path / folder / "t.jsonl").write_bytes(b"".join(lines))
    counts, found = built(tmp_path, "--text", str(tmp_path))
    assert [d["id"] for d in found] == [
        *(f"text:t.jsonl:{i}" for i in (1, 2, 3)),
        "text:t.jsonl:2@b/t.jsonl:2",
        "text:t.jsonl:3@b/t.jsonl:3",
    ]
    assert counts["sources"]["text"]["dropped"] == {"same id": 1}
    assert counts["renamed"] == 2
    assert all("place" not in d["metadata"] for d in found)


def test_row_numbers_that_begin_anew_every_year(tmp_path: Path) -> None:
    for year in (2019, 2020):
        lines = "".join(f'{i},{year + i},"Note {i} of {year}."\n' for i in range(4))
        (tmp_path / f"{year}.csv").write_text(f"row_id,subject_id,text\n{lines}")
    counts, found = built(tmp_path, "--notes", f"{tmp_path}/*.csv")
    assert len({d["id"] for d in found}) == len(found) == 8
    assert found[-1]["id"] == "note:3@2020.csv:4"
    assert counts["renamed"] == 4


def test_articles_without_ids_and_other_texts_of_one_article(tmp_path: Path, article: str) -> None:
    for number in (1, 2, 3):
        (tmp_path / str(number)).mkdir()
    nameless = article.format(pmid=1, pmcid=1).replace('"pmid">1<', '"doi">10.1/1<').replace('"pmc">1<', '"other">1<')
    (tmp_path / "1" / "article.xml").write_text(nameless)
    (tmp_path / "2" / "article.xml").write_text(nameless.replace("daily", "weekly"))
    (tmp_path / "2" / "PMC9.xml").write_text(article.format(pmid=9, pmcid=9))
    (tmp_path / "3" / "PMC9.xml").write_text(article.format(pmid=9, pmcid=9).replace("daily", "weekly"))
    counts, found = built(tmp_path, "--pmc", str(tmp_path))
    assert [d["id"] for d in found] == ["pmcid:PMC9", "text:article.xml:0", "text:article.xml:0@2/article.xml:1"]
    assert counts["sources"]["pmc"]["dropped"] == {"superseded by a newer version": 1}


def test_texts_in_cp1252_are_read_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_bytes("Zoë’s naïve café.".encode("cp1252"))
    (tmp_path / "b.txt").write_bytes("Zoë’s second café.".encode("utf-16"))
    (tmp_path / "c.txt").write_bytes("Zoë’s third.".encode() + b"\xe9")
    counts, found = built(tmp_path, "--text", str(tmp_path))
    assert [d["text"] for d in found] == ["Zoë’s naïve café.", "Zoë’s second café."]
    assert [d["metadata"].get("encoding") for d in found] == ["cp1252", None]
    assert counts["cp1252"] == {"text": 1}
    assert counts["problems"] == ["c.txt: neither UTF-8 nor cp1252"]
    assert "text: read as cp1252" in capsys.readouterr().out
