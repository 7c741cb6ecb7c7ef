"""brat and PubTator: what is read is what was annotated, what is written reads back; nothing is lost on long notes."""

import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from biomlm.core import cli
from biomlm.core.errors import DataError
from biomlm.core.files import read_json
from biomlm.finetune.data.dropped import Dropped
from biomlm.finetune.data.iob_tags import Span
from biomlm.finetune.data.readers.brat import numbered, pubtator_lines, read_brat, write_brat
from biomlm.finetune.data.readers.pubtator import read_pubtator, tag_words

DRUGS = ("aspirin", "heparin", "insulin", "metformin")


def note(folder: Path, name: str, rng: random.Random, words: int) -> int:
    """A made note in the shape of n2c2 2018's: text and standoff entities of two types; how many there are."""
    text, lines = "Medications:\n", []
    for _ in range(words):
        word, kind = rng.choice(
            [*((drug, "Drug") for drug in DRUGS), ("5 mg", "Strength"), ("often", ""), ("the liver", "")]
        )
        if kind:
            lines.append(f"T{len(lines) + 1}\t{kind} {len(text)} {len(text) + len(word)}\t{word}\n")
        text += word + rng.choice([" ", ", ", "\n"])
    (folder / f"{name}.txt").write_text(text)
    (folder / f"{name}.ann").write_text("".join([*lines, "R1\tStrength-Drug Arg1:T1 Arg2:T2\t\n", "#1\tNote T1\tx\n"]))
    return len(lines)


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Three folds of notes, each several windows long; entities in each fold."""
    where, rng, counts = tmp_path_factory.mktemp("notes"), random.Random(2), {}
    for fold, documents in (("train", 12), ("dev", 3), ("test", 3)):
        (where / fold).mkdir()
        counts[fold] = sum(note(where / fold, f"{fold}{i}", rng, 60) for i in range(documents))
    return where, counts


@pytest.fixture(scope="module")
def run(notes: tuple[Path, dict[str, int]], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("brat") / "run"
    argv = ["--model", str(tiny_model), "--task", "ner", "--data", str(notes[0]), "--out", str(out)]
    assert cli.run(["finetune", *argv, "--epochs", "3", "--optim.lr", "1e-2", "--batch.size", "4"]) == 0
    return out


def test_every_entity_of_long_notes_is_trained_on_and_scored(run: Path, notes: tuple[Path, dict[str, int]]) -> None:
    scores: dict[str, Any] = read_json(run / "scores.json")
    for fold, entities in notes[1].items():
        assert scores["counts"][fold]["entities"] == entities
    assert scores["test"]["gold"] == notes[1]["test"]
    assert set(scores["test"]["types"]) == {"Drug", "Strength"}


def test_predictions_in_brat_and_pubtator_are_those_in_json(
    run: Path, notes: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    texts = [path.read_text() for path in sorted((notes[0] / "test").glob("*.txt"))]
    source = tmp_path / "in.jsonl"
    rows = [{"id": f"../../note|{i}", "text": text} for i, text in enumerate(texts)]
    source.write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    for kind in ("jsonl", "brat", "pubtator"):
        argv = [str(run), str(source), "--out", str(tmp_path / kind), "--to", kind]
        assert cli.run(["finetune", "predict", *argv]) == 0
    lines = [orjson.loads(line) for line in (tmp_path / "jsonl").read_bytes().splitlines()]
    said = [[Span(**entity) for entity in line["entities"]] for line in lines]
    assert sum(map(len, said)) > 20
    brat = read_brat(tmp_path / "brat", Dropped())
    assert [record.text for record in brat] == texts
    assert [record.characters(record.spans) for record in brat] == said
    pubtator = read_pubtator(tmp_path / "pubtator", Dropped())
    shifted = [[Span(s.start + 1, s.stop + 1, s.type) for s in spans] for spans in said]
    assert [record.characters(record.spans) for record in pubtator] == shifted
    assert {path.parent for path in tmp_path.rglob("*.ann")} == {tmp_path / "brat"}


def test_formats_of_entities_are_refused_where_they_mean_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("aspirin\n")
    assert cli.run(["finetune", "predict", str(run), str(tmp_path / "in.txt"), "--to", "brat"]) == 2


def test_a_document_reads_back_as_it_was_written(tmp_path: Path) -> None:
    text = "β-blocker\r\n5 mg 💊 daily\nend"
    start = text.index("5 mg")
    record = tag_words("a/b", text, [Span(0, 9, "Drug"), Span(start, start + 6, "Strength")], 1)
    write_brat(tmp_path, record, record.characters(record.spans), numbered(record, 1))
    (again,) = read_brat(tmp_path, Dropped())
    assert (again.text, again.characters(again.spans)) == (record.text, record.characters(record.spans))
    (tmp_path / "p.txt").write_text(pubtator_lines(record, record.characters(record.spans)), encoding="utf-8")
    (again,) = read_pubtator(tmp_path / "p.txt", Dropped())
    assert [again.text[s.start : s.stop] for s in again.characters(again.spans)] == ["β-blocker", "5 mg 💊"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("T1\tDrug 1 8\taspirin", "line 1): the offsets do not point"),
        ("T1\tDrug 0 99\taspirin", "line 1): the offsets do not point"),
        ("T1 Drug 0 7 aspirin", "line 1): an entity is"),
    ],
)
def test_malformed_annotations_are_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("aspirin daily")
    (tmp_path / "a.ann").write_text(line)
    with pytest.raises(DataError) as caught:
        read_brat(tmp_path, Dropped())
    assert message in str(caught.value)
    (tmp_path / "b.txt").touch()
    (tmp_path / "a.ann").write_text("")
    with pytest.raises(DataError, match=r"b\.ann: there is no such file"):
        read_brat(tmp_path, Dropped())


def test_entities_in_pieces_and_overlapping_ones_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("aspirin and heparin daily")
    ann = "T1\tDrug 0 7;12 19\taspirin heparin\nT2\tDrug 12 19\theparin\nT3\tDrug 12 25\theparin daily\n"
    (tmp_path / "a.ann").write_text(ann)
    dropped = Dropped()
    (record,) = read_brat(tmp_path, dropped)
    assert record.characters(record.spans) == [Span(12, 25, "Drug")]
    assert dropped == Dropped(overlapping=1, discontinuous=1)


def test_nothing_that_stood_there_is_lost(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "notes" / "in.jsonl"
    source.parent.mkdir()
    source.write_bytes(orjson.dumps({"id": "a", "text": "aspirin 5 mg"}))
    (tmp_path / "gold").mkdir()
    (tmp_path / "gold" / "a.ann").write_text("by hand")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for kind, out in (("brat", "notes"), ("brat", "gold"), ("jsonl", "notes/in.jsonl"), ("pubtator", "gold/a.ann")):
        argv = ["finetune", "predict", str(run), str(source), "--to", kind, "--out", str(tmp_path / out)]
        assert cli.run(argv) == 2, (kind, out)
        assert capsys.readouterr().err.endswith("Give another --out.\n")
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
