"""Notes: columns of every shape, rows with broken quoting, placeholders, sections, repeats, wrapped lines."""

import gzip
import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest
from datatrove.data import Document

from biomlm.core.cli import run as biomlm
from biomlm.core.errors import DataError
from biomlm.core.manifest import read_manifest
from biomlm.corpus.documents import documents
from biomlm.corpus.readers.deid_placeholders import Placeholders, kind
from biomlm.corpus.readers.note_sections import joined, note_sections
from biomlm.corpus.readers.notes import NotesReader
from biomlm.corpus.text.document import DROPPED

HEADER = '"ROW_ID","SUBJECT_ID","HADM_ID","CHARTDATE","CHARTTIME","STORETIME","CATEGORY","DESCRIPTION","CGID","ISERROR","TEXT"\n'


def read(tmp_path: Path, data: str | bytes, name: str = "N.csv", **options: Any) -> list[Document]:
    (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return list(NotesReader(str(tmp_path), salt="s", **options).read_file(name))


def row(number: int, text: str, error: str = "") -> str:
    quoted = text.replace('"', '""')
    return f'{number},{number},1,2150-01-02,,,"Physician ","Note",,{error},"{quoted}"\n'


def test_mimic_iii(tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + row(1, 'He said "no".\n\nPlan: rest') + row(2, "Wrong patient", error="1"))
    assert [d.id for d in found] == ["note:1", "note:2"]
    assert found[0].text == 'He said "no".\n\nPlan: rest'
    assert found[0].metadata["category"] == "Physician"
    assert found[0].metadata["year"] == 2150
    assert found[0].metadata["date"] == "2150-01-02"
    assert found[1].metadata[DROPPED] == "marked as an error"


def test_mimic_iv(tmp_path: Path) -> None:
    header = "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text\n"
    (document,) = read(tmp_path, header + '10-DS-1,10,2,DS,1,2160-05-01 00:00:00,,"Discharge text ___ here."\n')
    assert document.id == f"note:{document.metadata['patient']}-DS-1"
    assert document.metadata["category"] == "DS"
    assert document.text == "Discharge text ___ here."


@pytest.mark.parametrize(
    ("header", "line", "wanted"),
    [
        ("note_id,subject_id,text", "10000032-DS-21,10000032,x", "note:{}-DS-21"),
        ("note_id,text", "10000032-DS-21,x", "note:{}-DS-21"),
        ("row_id,subject_id,text", "A/10000032/7,10000032,x", "note:A/{}/7"),
        ("row_id,subject_id,text", "910000032-7,10000032,x", "note:910000032-7"),
        ("row_id,subject_id,text", "77,10000032,x", "note:77"),
        ("subject_id,text", "10000032,x", "text:N.csv:2"),
    ],
)
def test_no_id_holds_the_patient(header: str, line: str, wanted: str, tmp_path: Path) -> None:
    """The hash, recounted with hashlib, stands where the patient's number stood."""
    key = hashlib.blake2b(b"s", digest_size=32).digest()
    hashed = hashlib.blake2b(b"10000032", key=key, digest_size=8).hexdigest()
    (document,) = read(tmp_path, f"{header}\n{line}\n")
    assert document.id == wanted.format(hashed)
    assert document.metadata["patient"] == hashed


def test_capitals_are_a_title_only_if_they_are_known() -> None:
    note = "CHIEF COMPLAINT\nPain.\n\nJANE ZEBRA DOE\nwas here.\n\nPAST HISTORY\nAsthma.\n\nFOO BAR: baz"
    found = dict(note_sections(note))
    assert list(found) == ["Note", "CHIEF COMPLAINT", "PAST HISTORY", "FOO BAR"]
    assert "JANE ZEBRA DOE" in found["CHIEF COMPLAINT"]


def test_a_problem_is_a_title_before_a_colon_only() -> None:
    note = "PAST HISTORY\nCAD\nASA 81\nHIV\n\nCAD: on aspirin.\nHIV:\nstable"
    assert [name for name, _ in note_sections(note)] == ["Note", "PAST HISTORY", "CAD", "HIV"]


def test_any_columns_by_a_map(tmp_path: Path) -> None:
    columns = {"id": "key", "patient": "mrn", "text": "body"}
    lines = orjson.dumps({"key": 7, "mrn": "A1", "body": "Some note."}) + b"\nnot json\n"
    found = read(tmp_path, lines, "n.jsonl", columns=columns)
    assert found[0].id == "note:7"
    assert len(found[0].metadata["patient"]) == 16
    assert found[1].metadata["problem"] == "n.jsonl: line 2, no JSON object"
    with pytest.raises(DataError, match="no column `body` among the 2 columns"):
        read(tmp_path, "key,mrn\n1,2\n", columns=columns)


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="Parquet is read with pyarrow, which is optional")
    from pyarrow import parquet

    table = arrow.table({"ROW_ID": [1, 2], "SUBJECT_ID": [3, 4], "TEXT": ["One note.", None]})
    parquet.write_table(table, tmp_path / "n.parquet")
    found = list(NotesReader(str(tmp_path), salt="s").read_file("n.parquet"))
    assert [(d.id, d.text) for d in found] == [("note:1", "One note."), ("note:2", "")]


@pytest.mark.parametrize(
    "broken",
    [
        '3,3,1,2150-01-02,,,"Phys"ician","Note",,,"text"\n',
        '3,3,1,2150,,,"Physician","Note",,,"never closed\n',
        "3,short,row\n",
    ],
)
def test_broken_quoting_costs_one_row(broken: str, tmp_path: Path) -> None:
    good = [row(i, f"Note {i}, with commas,\nand lines.") for i in range(1, 9)]
    found = read(tmp_path, HEADER + "".join(good[:4]) + broken + "".join(good[4:]))
    kept = [d.id for d in found if DROPPED not in d.metadata]
    assert len(kept) >= 7
    assert kept[-3:] == ["note:6", "note:7", "note:8"]
    problems = [d.metadata["problem"] for d in found if DROPPED in d.metadata]
    assert problems[0] == "N.csv: line 10, broken quoting"


def test_a_field_of_100_mb_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "N.csv.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(HEADER + row(1, "Before.") + '2,2,1,2150-01-02,,,"P","N",,,"')
        for _ in range(100):
            file.write("word " * 200_000 + "\n")
        file.write('"\n' + row(3, "After one.") + row(4, "After two."))
    found = list(NotesReader(str(tmp_path), salt="s").read_file("N.csv.gz"))
    kept = [d.id for d in found if DROPPED not in d.metadata]
    assert kept == ["note:1", "note:3", "note:4"]
    assert [d.metadata["problem"] for d in found if DROPPED in d.metadata] == ["N.csv.gz: line 3, broken quoting"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("First Name8 (NamePattern2) 507", "NAME"),
        ("Hospital1 18", "HOSPITAL"),
        ("2151-7-16", "DATE"),
        ("7-16", "DATE"),
        ("Month/Day (2) 12", "DATE"),
        ("Age over 90 123", "AGE"),
        ("Telephone/Fax (1) 99", "PHONE"),
        ("Medical Record Number 5", "ID"),
        ("MD Number(1) 77", "ID"),
        ("Street Address(1) 4", "LOCATION"),
        ("Wardname 12", "HOSPITAL"),
        ("E-mail address 3", "CONTACT"),
        ("Holiday 4", "HOLIDAY"),
        ("", "OTHER"),
    ],
)
def test_kinds_of_placeholders(content: str, expected: str) -> None:
    assert kind(content) == expected


def test_placeholders_kept_typed_or_replaced() -> None:
    text = "Mr. [**Known lastname 5**] saw [**Doctor Last Name 6**] and [**Known lastname 5**] on [**2150-3-4**] ([**Hospital1 **])."
    assert Placeholders("keep", "k").replace(text) == text
    assert Placeholders("type", "k").replace(text) == "Mr. [NAME] saw [NAME] and [NAME] on [DATE] ([HOSPITAL])."
    replaced = Placeholders("surrogate", "k").replace(text)
    assert "[**" not in replaced
    first, second = replaced.split()[1], replaced.split()[5]
    assert first == second
    assert replaced == Placeholders("surrogate", "k").replace(text)
    names = {Placeholders("surrogate", f"patient {i}").replace(text).split()[1] for i in range(40)}
    assert len(names) > 10


def test_sections_and_wrapped_lines() -> None:
    note = """Admission Date: [**2150-1-2**]

CHIEF COMPLAINT:
Chest pain

History of Present Illness:
Mr. [**Known lastname 5**] is a 60 year old man who was seen in the
emergency depart-
ment today, and was treat-
ed.
1. Aspirin
2. Heparin

Brief Hospital Course: He did well."""
    found = dict(note_sections(note))
    assert list(found) == ["Note", "CHIEF COMPLAINT", "History of Present Illness", "Brief Hospital Course"]
    assert found["History of Present Illness"][1] == (
        "Mr. [**Known lastname 5**] is a 60 year old man who was seen in the emergency department today, and was treated."
    )
    assert found["History of Present Illness"][-2:] == ["1. Aspirin", "2. Heparin"]
    assert found["Brief Hospital Course"] == ["Brief Hospital Course: He did well."]
    assert joined(["A line that is certainly long enough to have been wrapped by treat-", "ment software"]) == [
        "A line that is certainly long enough to have been wrapped by treatment software"
    ]


@pytest.mark.shared
def test_history_of_present_illness_is_found(shared: Path) -> None:
    """In ACI-Bench's notes the header is written out, so a plain search is the reference."""
    documents = list(
        NotesReader(str(shared / "clinical" / "noteevents_shaped_aci"), salt="s").read_file("NOTEEVENTS.csv.gz")
    )
    with_header = [d for d in documents if "\nHISTORY OF PRESENT ILLNESS\n" in f"\n{d.text}\n"]
    assert len(with_header) > 100
    for document in with_header:
        assert any(path.upper() == "HISTORY OF PRESENT ILLNESS" for _, _, path in document.metadata["sections"])


def test_copied_forward_paragraphs(tmp_path: Path, make: Any) -> None:
    copied = "The patient has a long history of asthma and takes salbutamol as needed at home."
    rows = [
        (1, 5, "", f"Plan one is to wait.\n\n{copied}"),
        (2, 5, "", f"{copied}\n\nPlan two is to act."),
        (3, 6, "", f"{copied} Other patient."),
    ]
    source = make.notes(tmp_path / "NOTEEVENTS.csv.gz", rows)
    texts = {}
    for mode in ("count", "remove"):
        out = tmp_path / mode
        assert (
            biomlm(
                [
                    "corpus",
                    "build",
                    "--notes",
                    str(source),
                    "--out",
                    str(out),
                    "--repeats",
                    mode,
                    "--valid_fraction",
                    "0",
                ]
            )
            == 0
        )
        found = list(documents(out / "train" / "00000.jsonl.gz"))
        texts[mode] = [d["text"] for d in found]
        assert [d["metadata"].get("repeated_paragraphs") for d in found] == [None, 1, None]
        for document in found:
            assert "".join(
                "".join(document["text"][a:b] for a, b in document["metadata"]["sentences"]).split()
            ) == "".join(document["text"].split())
    assert texts["count"][1].count(copied) == 1
    assert texts["remove"][1] == "Plan two is to act."
    assert texts["remove"][0] == texts["count"][0]
    assert texts["remove"][2] == texts["count"][2]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("N.csv", "ROW_ID,SUBJECT_ID,TEXT,TEXT\n1,7,a note of some words,zzcanary\n"),
        ("N.csv", "ROW_ID,SUBJECT_ID, subject_id,TEXT\n1,7,8,a note of some words\n"),
        ("N.jsonl", '{"row_id": 1, "text": "a note of some words", "TEXT": "zzcanary"}\n'),
    ],
)
def test_two_columns_of_one_name_are_refused(name: str, data: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"two columns") as refused:
        read(tmp_path, data, name)
    assert "zzcanary" not in str(refused.value)


def test_notes_without_a_patient_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "a note of more words than the five that it needs"
    rows = "".join(f"{i},{'' if i % 3 else 7},{words} number {i}\n" for i in range(30))
    for patient, counted in (("subject_id", "20"), ("mrn", "30")):
        (tmp_path / f"{patient}.csv").write_text(f"row_id,{patient},text\n{rows}")
        notes = ["--notes", f"{tmp_path}/{patient}.csv"]
        assert biomlm(["corpus", "build", *notes, "--out", f"{tmp_path}/{patient}"]) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if "without a patient" in line)
        assert line.split()[-1] == counted


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("Name:  ___   Unit No:   ___", "Name: [NAME] Unit No: [ID]"),
        ("Admission Date:  ___", "Admission Date: [DATE]"),
        ("Date of Birth:  ___   Sex:   F", "Date of Birth: [DATE] Sex: F"),
        ("She saw Dr. ___ at ___ Hospital.", "She saw Dr. [NAME] at [HOSPITAL] Hospital."),
        ("___ year old man, ___ yo", "[AGE] year old man, [AGE] yo"),
        ("Please call ___ with ___.", "Please call [PHONE] with [OTHER]."),
        ("Signature: ____________ and a__b", "Signature: ____________ and a__b"),
    ],
)
def test_the_blanks_of_mimic_iv_are_typed_by_what_stands_around_them(text: str, typed: str) -> None:
    assert " ".join(Placeholders("type", "k").replace(text).split()) == typed
    assert Placeholders("keep", "k").replace(text) == text
    assert ("___" in Placeholders("surrogate", "k").replace(text)) == ("____" in text)


def test_categories_select_notes_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ["Discharge summary", "discharge  summary ", "Nursing", ""]
    lines = "".join(f'{i},{i},{kind},"This is note number {i} of them."\n' for i, kind in enumerate(kinds))
    (tmp_path / "n.csv").write_text(f"ROW_ID,SUBJECT_ID,CATEGORY,TEXT\n{lines}")
    (tmp_path / "t.txt").write_text("This text has no category at all.")
    out = tmp_path / "docs"
    words = ["corpus", "build", "--text", f"{tmp_path}/t.txt", "--out", str(out), "--valid_fraction", "0"]
    chosen = ["--select.categories", "Discharge summary"]
    assert biomlm([*words, "--notes", f"{tmp_path}/n.csv", *chosen]) == 0
    sources = read_manifest(out, "corpus build").counts["sources"]
    assert sources["notes"]["dropped"] == {"another category": 2}
    assert (sources["notes"]["kept"], sources["text"]["kept"]) == (2, 1)
    capsys.readouterr()
    assert biomlm([*words, *chosen]) == 2
    assert "--notes" in capsys.readouterr().err
