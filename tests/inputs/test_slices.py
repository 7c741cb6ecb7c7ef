"""Slices of big tables: together they hold the rows of the whole, whatever stands in the texts; damage stays where it is."""

import csv
import gzip
import io
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from biomlm.inputs.slices import Slice, part_of, slices
from biomlm.inputs.streams import COMPRESSIONS, Decompressed
from biomlm.inputs.tables import Row, rows

LEAST = 1 << 20
HEADER = ["ROW_ID", "SUBJECT_ID", "CHARTDATE", "TEXT"]
PIECES = [
    'He said "no".\n',
    "1,2,2001-01-01,a line\n",
    '""\n',
    "plain words, and more\n",
    "end\n\n",
    '"1","2","x","y"\n',
    "ß € 你\n",
]


def made(rng: random.Random, number: int) -> list[str]:
    return [str(number), str(rng.randint(1, 99)), "2001-01-01", "".join(rng.choices(PIECES, k=rng.randint(1, 40)))]


def written(table: list[list[str]], **dialect: Any) -> bytes:
    file = io.StringIO()
    csv.writer(file, **dialect).writerows(table)
    return file.getvalue().encode()


def read(path: Path, part: Slice | None) -> list[Row]:
    with path.open("rb") as file:
        stream: Any = Decompressed(file, COMPRESSIONS[".gz"]) if path.suffix == ".gz" else file
        return list(rows(part_of(stream, part), path.name))


@pytest.mark.parametrize("name", ["n.csv", "n.csv.gz", "n.tsv", "n.jsonl"])
def test_slices_hold_the_rows_of_the_whole(name: str, tmp_path: Path) -> None:
    rng = random.Random(3)
    table = [made(rng, number) for number in range(9000)]
    if name == "n.jsonl":
        data = b"".join(orjson.dumps(dict(zip(HEADER, row, strict=True))) + b"\n" for row in table)
    else:
        data = written([HEADER, *table], delimiter="\t" if name == "n.tsv" else ",", lineterminator="\n")
    path = tmp_path / name
    path.write_bytes(gzip.compress(data, 1) if name.endswith(".gz") else data)
    parts = slices(path, LEAST)
    assert len(parts) > 2
    assert [row for part in parts for row in read(path, part)] == read(path, None)
    assert len(read(path, None)) == len(table)


def test_no_more_than_sixteen_and_none_of_a_small_or_foreign_file(tmp_path: Path) -> None:
    rng = random.Random(4)
    table = [HEADER, *(made(rng, number) for number in range(60000))]
    path = tmp_path / "n.csv"
    path.write_bytes(written(table))
    parts = slices(path, 1)
    assert path.stat().st_size > 17 << 20
    assert len(parts) == 16
    assert sum(len(read(path, part)) for part in parts) == 60000
    assert slices(path, 1 << 30) == []
    path.write_text(path.read_text(), encoding="utf-16")
    assert slices(path, LEAST) == []
    path.write_text("a,b\n" + "1,2\n" * 900000)  # no row is one for certain
    assert slices(path, LEAST) == []


def test_damage_costs_a_sliced_table_no_more_than_the_whole(tmp_path: Path) -> None:
    rng = random.Random(5)
    table = [made(rng, number) for number in range(6000)]
    lines = [written([row]) for row in table]
    for number in rng.sample(range(6000), 20):
        lines[number] = lines[number].replace(b'"', b"", 1)
    path = tmp_path / "n.csv"
    path.write_bytes(written([HEADER]) + b"".join(lines))
    whole = [row for row in read(path, None) if isinstance(row.fields, dict)]
    found = [row for part in slices(path, LEAST) for row in read(path, part) if isinstance(row.fields, dict)]
    assert len(found) >= len(whole) >= 6000 - 40
    assert {row.fields["ROW_ID"] for row in whole} <= {row.fields["ROW_ID"] for row in found}  # type: ignore[index]
