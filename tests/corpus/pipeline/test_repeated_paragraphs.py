"""Repeated paragraphs of notes: copied forward within a patient, templates across patients, counted or removed."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biomlm.core.cli import run as biomlm
from biomlm.core.manifest import read_manifest
from biomlm.corpus.documents import document_files, documents
from biomlm.corpus.pipeline import repeated_paragraphs
from biomlm.corpus.pipeline.intermediate import PARAGRAPHS, part_folder
from biomlm.corpus.pipeline.repeated_paragraphs import find_repeats
from biomlm.corpus.text.document import hash64

TEMPLATE = "The risks and benefits of the procedure were explained and consent was given."
COPIED = "The patient has a long history of asthma and takes salbutamol as needed."


def build(tmp_path: Path, source: Path, *words: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    out = tmp_path / "-".join(("out", *words))
    command = ["corpus", "build", "--notes", str(source), "--out", str(out), "--valid_fraction", "0"]
    assert biomlm([*command, "--template_patients", "3", *words]) == 0
    found = [document for path in document_files(out, "train") for document in documents(path)]
    return read_manifest(out, "corpus build").counts, found


@pytest.fixture
def source(tmp_path: Path, make: Any) -> Path:
    """Five patients with the template, the first two notes of one patient; one note that is nothing else."""
    rows = [
        (i, i // 2, "", f"Plan no. {i} is to wait.\n\n{TEMPLATE}\n\n{COPIED if i < 2 else 'End.'}") for i in range(10)
    ]
    made: Path = make.notes(tmp_path / "NOTEEVENTS.csv.gz", [*rows, (10, 9, "", TEMPLATE)])
    return made


def test_templates_are_counted(source: Path, tmp_path: Path) -> None:
    counts, found = build(tmp_path, source)
    assert len(found) == 11
    assert all(TEMPLATE in d["text"] for d in found)
    assert [d["metadata"].get("template_paragraphs", 0) for d in found] == [0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert [d["metadata"].get("repeated_paragraphs", 0) for d in found] == [0, 2, 0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert (counts["repeated_paragraphs"], counts["template_paragraphs"]) == (6, 5)


def test_templates_are_removed_but_for_the_first(source: Path, tmp_path: Path) -> None:
    counts, found = build(tmp_path, source, "--templates", "remove")
    assert [d["id"] for d in found if TEMPLATE in d["text"]] == [
        "note:0",
        "note:1",
        "note:3",
        "note:5",
        "note:7",
        "note:9",
    ]
    assert counts["sources"]["notes"]["dropped"] == {"nothing but repeated paragraphs": 1}
    both, found = build(tmp_path, source, "--templates", "remove", "--repeats", "remove")
    assert [d["id"] for d in found if TEMPLATE in d["text"]] == ["note:0"]
    assert [d["id"] for d in found if COPIED in d["text"]] == ["note:0"]
    assert found[1]["text"] == "Plan no. 1 is to wait."
    assert both["template_paragraphs"] == counts["template_paragraphs"] == 4
    for document in found:
        sentences = ["".join(document["text"][a:b].split()) for a, b in document["metadata"]["sentences"]]
        assert "".join(sentences) == "".join(document["text"].split())


def test_no_text_of_a_note_is_reported(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(tmp_path, source, "--templates", "remove")
    said = capsys.readouterr()
    manifest = (tmp_path / "out---templates-remove" / "manifest.json").read_text()
    for text in (said.out, said.err, manifest):
        assert "template paragraphs in notes" in said.out
        assert "consent" not in text
        assert "asthma" not in text


NOTES = st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=12), min_size=1, max_size=3)


@given(NOTES, st.integers(2, 3), st.integers(1, 30))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_number_of_passes_finds_what_a_plain_loop_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: list[list[tuple[int, int]]], patients: int, rows: int
) -> None:
    """Each task a list of notes of one paragraph, `(patient, text)`."""
    monkeypatch.setattr(repeated_paragraphs, "ROWS", rows)
    owners: dict[int, set[int]] = defaultdict(set)
    for patient, text in (note for notes in tasks for note in notes):
        owners[text].add(patient)
    seen: set[Any] = set()
    expected = []
    for number, notes in enumerate(tasks):
        expected.append([])
        for document, (patient, text) in enumerate(notes):
            if (patient, text) in seen:
                expected[-1].append((document, 0, False))
            elif text in seen and len(owners[text]) >= patients:
                expected[-1].append((document, 0, True))
            seen |= {text, (patient, text)}
        table = [(i, 0, hash64(str(t)), hash64(str(p), str(t))) for i, (p, t) in enumerate(notes)]
        folder = part_folder(tmp_path, number)
        folder.mkdir(parents=True, exist_ok=True)
        np.array(table, PARAGRAPHS).tofile(folder / "paragraphs.bin")
    codes = [np.zeros(len(notes), np.uint8) for notes in tasks]
    found = find_repeats(tmp_path, codes, patients)
    assert [[tuple(row) for row in of_task.tolist()] for of_task in found] == expected
