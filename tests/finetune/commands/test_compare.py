"""`biomlm finetune compare`: models × tasks, kinds of mistakes, the page; and that no word is shown unless asked for."""

import random
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from lxml import etree

from biomlm.core import cli
from biomlm.core.files import read_json
from biomlm.finetune.comparison import errors
from biomlm.finetune.comparison.errors import Mistake
from biomlm.finetune.data.records import Labelled, Tagged

DRUGS = ("aspirin", "heparin", "insulin", "metformin")
Runs = dict[str, Path]


@pytest.fixture(scope="module")
def runs(tiny_model: Path, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A model that learns and one that does not, on entities; the first also on relations, and twice on numbers."""
    where, rng = tmp_path_factory.mktemp("compare"), random.Random(1)
    shutil.copytree(tiny_model, where / "other")
    (where / "pairs").mkdir()
    for fold, count in (("train", 80), ("dev", 16), ("test", 24)):
        drugs = [rng.choice(DRUGS) for _ in range(count)]
        rows = [
            {"id": f"{fold}{i}", "text": f"{drug} often", "label": drug[0], "length": len(drug)}
            for i, drug in enumerate(drugs)
        ]
        (where / f"pairs/{fold}.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    kinds = {
        "good": [str(tiny_model), "ner", str(toy), "--seeds", "2", "--epochs", "3", "--optim.lr", "3e-3"],
        "bad": [str(where / "other"), "ner", str(toy), "--epochs", "1", "--optim.lr", "1e-9"],
        "labels": [str(tiny_model), "classification", str(where / "pairs"), "--epochs", "1", "--columns.id", "id"],
        **{
            name: [str(tiny_model), "similarity", str(where / "pairs"), "--epochs", "1", "--columns.label", "length"]
            for name in ("one", "two")
        },
    }
    for name, (model, task, data, *more) in kinds.items():
        argv = ["--model", model, "--task", task, "--data", data, "--out", str(where / name), "--batch.size", "8"]
        assert cli.run(["finetune", *argv, "--max_shared", "1", *more]) == 0
    return {name: where / name for name in kinds}


def compare(runs: Runs, *names: str, more: list[str]) -> int:
    return cli.run(["finetune", "compare", *(str(runs[name]) for name in names), *more])


def test_models_by_tasks_with_intervals_and_a_paired_test(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(runs, "good", "bad", "labels", more=["--out", str(tmp_path / "c.json")]) == 0
    found: list[dict[str, Any]] = read_json(tmp_path / "c.json")["tasks"]  # type: ignore[assignment]
    assert [task["task"].endswith(kind) for task, kind in zip(found, ("(ner)", "(classification)"), strict=True)] == [
        True,
        True,
    ]
    good, bad = found[0]["runs"]
    assert (good["difference"], good["p"], good["seeds"]) == (0, 1, 2)
    assert bad["difference"] < 0
    assert bad["p"] < 0.05
    low, high = bad["difference_interval"]
    assert low <= bad["difference"] <= high
    shown = capsys.readouterr().out
    assert all(
        word in shown for word in ("tiny", "other", f"{bad['difference']:+.4f}", "(ner)", "other borders", "missed")
    )
    assert found[0]["hardest"] == []


def test_the_page_is_whole_and_has_no_word_unless_asked_for(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(runs, "good", "bad", "labels", more=["--page", str(tmp_path / "c.html")]) == 0
    page = (tmp_path / "c.html").read_text()
    etree.fromstring(page.replace("<!doctype html>", "").encode())  # well-formed
    assert all(word in page for word in ("<svg", "development score by epoch", "No text of any document", "spurious"))
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    said = page + capsys.readouterr().out
    assert not any(word in said for word in ("aspirin", "liver", "protects"))
    assert compare(runs, "good", "bad", more=["--page", str(tmp_path / "c.html"), "--words", "5"]) == 0
    assert "Words of the test folds are on this page" in (tmp_path / "c.html").read_text()
    assert "wrong in" in capsys.readouterr().out
    assert any(f"<mark>{drug}" in (tmp_path / "c.html").read_text() for drug in DRUGS)


def test_words_are_those_of_the_data_that_were_scored(
    runs: Runs, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = toy / "test.tsv"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"liver", b"heart"))
    try:
        assert compare(runs, "good", "bad", more=["--words", "5"]) == 2
    finally:
        path.write_bytes(before)
    assert "no longer those" in capsys.readouterr().err


def test_numbers_have_no_mistakes_to_show(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(runs, "one", "two", more=["--words", "5"]) == 2
    assert "--words has no effect here: these runs predict numbers" in capsys.readouterr().err
    assert compare(runs, "one", "two", "good", "bad", more=["--words", "5"]) == 0
    assert "wrong in" in capsys.readouterr().out


def test_runs_on_other_data_are_not_compared(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(runs, "good", "labels", more=[]) == 2
    assert "no two of the runs are of one task on the same data" in capsys.readouterr().err
    assert compare(runs, "good", more=[]) == 2


def entity(start: int, stop: int, kind: str = "D") -> dict[str, Any]:
    return {"start": start, "stop": stop, "type": kind}


def line(gold: list[dict[str, Any]], found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": "x", "entities": found, "gold": {"entities": gold}}


def test_mistakes_are_sorted_and_each_gold_entity_counts_once() -> None:
    gold = [entity(0, 5), entity(10, 15), entity(20, 25), entity(30, 35, "G")]
    found = [entity(0, 5), entity(10, 15, "G"), entity(21, 25), entity(40, 45)]
    counts = errors.by_type([[line(gold, found)], [line(gold, gold)]])
    assert counts["D"] == {"right": 2, "other type": 0.5, "other borders": 0.5, "missed": 0, "spurious": 0.5}
    assert counts["G"] == {"right": 0.5, "other type": 0, "other borders": 0, "missed": 0.5, "spurious": 0}


def test_the_hardest_are_those_that_most_get_wrong() -> None:
    gold = [entity(0, 5), entity(10, 15)]
    runs = [[line(gold, [entity(0, 5)])], [line(gold, [entity(0, 4), entity(30, 33, "G")])]]
    assert errors.hardest(errors.ENTITIES, runs, 9) == [
        Mistake(0, (10, 15), "D", 1.0, predicted=("missed",)),
        Mistake(0, (0, 5), "D", 0.5, predicted=("D (other borders)",)),
        Mistake(0, (30, 33), "", 0.5, predicted=("G",)),
    ]
    labelled = [[{"id": "x", "label": said, "gold": {"label": "a"}}] for said in "bab"]
    assert errors.hardest(errors.LABELS, labelled, 9) == [Mistake(0, None, "a", 2 / 3, predicted=("b",))]
    assert errors.confusions(labelled) == {"a": {"b": 2 / 3, "a": 1 / 3}}


def test_context_is_cut_on_both_sides() -> None:
    text = "w " * 50 + "aspirin" + " w" * 50
    record = Tagged("x", text, ((100, 107),), ("B",), line=1)
    before, inside, after = errors.context(record, Mistake(0, (100, 107), "D", 1.0, predicted=()))
    assert (inside, before[0], after[-1]) == ("aspirin", "…", "…")
    assert errors.context(Labelled("x", ("a\nb",)), Mistake(0, None, "a", 1.0, predicted=())) == ("", "a b", "")


def test_runs_on_other_labels_of_one_file_are_not_compared(
    runs: Runs, tiny_model: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model", str(tiny_model), "--task", "ner", "--data", str(toy), "--out", str(tmp_path / "typed")]
    assert cli.run(["finetune", *argv, "--epochs", "1", "--one_type", "Thing"]) == 0
    both = {**runs, "typed": tmp_path / "typed"}
    assert compare(both, "good", "typed", more=[]) == 2
    assert "with the same labels" in capsys.readouterr().err
    assert compare(both, "good", "bad", "typed", more=["--out", str(tmp_path / "c.json")]) == 0
    found: list[dict[str, Any]] = read_json(tmp_path / "c.json")["tasks"]  # type: ignore[assignment]
    assert [len(task["runs"]) for task in found] == [2, 1]
    assert found[1]["task"].endswith("(ner, one_type Thing)")
    good, bad = found[0]["runs"]
    assert good["settings"] == {}
    assert bad["settings"] == {"epochs": [3, 1], "seeds": [2, 1], "optim.lr": [3e-3, 1e-9]}


def test_two_models_of_one_name_have_a_row_each(
    runs: Runs, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same task on the same data would show it; on two tasks their scores once stood in one row."""
    again = tmp_path / "else" / tiny_model.name
    config = {"model": tiny_model, "data": runs["good"].parent / "pairs", "task": "classification"}
    shutil.copytree(runs["good"], again)
    argv = [word for key, value in (config | {"model": again}).items() for word in (f"--{key}", str(value))]
    assert (
        cli.run(
            [
                "finetune",
                *argv,
                "--columns.id",
                "id",
                "--epochs",
                "1",
                "--max_shared",
                "1",
                "--out",
                str(tmp_path / "b"),
            ]
        )
        == 0
    )
    both = {**runs, "b": tmp_path / "b"}
    assert compare(both, "good", "b", "bad", more=["--page", str(tmp_path / "c.html")]) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("/")]
    assert {str(runs["good"]), str(both["b"]), str(runs["bad"])} <= set(rows)
