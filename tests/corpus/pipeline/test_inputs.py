"""A big table is read in slices, which gives the documents of the whole."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from biomlm.core.cli import run as biomlm
from biomlm.corpus.documents import documents
from biomlm.corpus.pipeline import inputs
from biomlm.inputs.slices import slices


def built(table: Path, out: Path) -> list[dict[str, Any]]:
    assert biomlm(["corpus", "build", "--notes", str(table), "--out", str(out)]) == 0
    return [d for path in sorted(out.glob("*/*.jsonl.gz")) for d in documents(path)]


def test_slices_of_a_table_give_the_documents_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "n.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ROW_ID", "SUBJECT_ID", "TEXT"])
        for number in range(3000):
            filler = f'Note {number} says "stable",\n' * 40
            writer.writerow([number, number % 70, f"{filler}\nThe end of {number}."])
    whole = built(table, tmp_path.with_name(f"{tmp_path.name}-whole"))
    monkeypatch.setattr(inputs, "TASK_BYTES", 1 << 16)
    monkeypatch.setattr(inputs, "slices", partial(slices, least=1 << 20))
    assert len(inputs.tasks(inputs.find("notes", [str(table)]))) > 2
    sliced = built(table, tmp_path.with_name(f"{tmp_path.name}-sliced"))
    assert sorted(sliced, key=lambda d: d["id"]) == sorted(whole, key=lambda d: d["id"])
    assert len(whole) == 3000
