"""Labels that only the development or the test fold has: refused, or by `--unseen_labels count` scored as missed."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from biomlm.core import cli
from biomlm.core.files import read_json

QUICK = ["--optim.lr", "3e-3", "--batch.size", "8", "--epochs", "1", "--max_shared", "1"]
COUNT = ["--unseen_labels", "count"]
SHORT = "aspirin\tB-Drug\nprotects\tO\n\nthe\tO\nliver\tO\n\n"
RARE = "BRCA1\tB-Gene\ngene\tI-Gene\nof\tO\n\n"
TITLES = ("aspirin protects the liver", "the heparin of patients", "BRCA1 and aspirin")


def argv(model: Path, task: str, data: Path, out: Path) -> list[str]:
    return ["finetune", "--model", str(model), "--task", task, "--data", str(data), "--out", str(out), *QUICK]


def iob(folder: Path) -> Path:
    """Genes in the other folds only: one in dev, two in test."""
    folder.mkdir()
    for fold, text in (("train", SHORT * 4), ("devel", SHORT + RARE), ("test", SHORT * 2 + RARE * 2)):
        (folder / f"{fold}.tsv").write_text(text)
    return folder


def pubtator(folder: Path) -> Path:
    """The same, in documents."""
    folder.mkdir()
    for fold, genes in (("train", 0), ("devel", 1), ("test", 2)):
        drug = "0|t|aspirin protects\n0|a|the liver\n0\t0\t7\taspirin\tDrug\n\n"
        rare = [f"{n}|t|BRCA1 gene\n{n}|a|of\n{n}\t0\t10\tBRCA1 gene\tGene\n\n" for n in range(1, genes + 1)]
        (folder / f"{fold}.txt").write_text(drug + "".join(rare))
    return folder


def labelled(folder: Path, labels: dict[str, list[Any]]) -> Path:
    folder.mkdir()
    for fold, found in labels.items():
        rows = [{"text": TITLES[i % 3], "label": label} for i, label in enumerate(found)]
        (folder / f"{fold}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return folder


@pytest.mark.parametrize(("files", "task"), [(iob, "ner"), (pubtator, "ner"), (iob, "pico")])
def test_entities_of_an_unseen_type_count_as_missed(
    files: Any, task: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = argv(tiny_model, task, files(tmp_path / "data"), tmp_path / "run")
    assert cli.run(command) == 2
    assert "--unseen_labels count" in capsys.readouterr().err
    assert cli.run([*command, *COUNT, *(["--crf"] if task == "ner" else [])]) == 0
    assert "2 of labels unseen in training" in capsys.readouterr().out
    result: dict[str, Any] = read_json(tmp_path / "run/seed_1/result.json")
    words = 1 if task == "ner" else 2  # pico scores words, and the gene has two
    for fold, genes in (("dev", 1), ("test", 2)):
        scores = result[fold]
        assert scores["unseen"] == genes * words
        rare = scores["types"]["Gene"]
        assert (rare["gold"], rare["predicted"], rare["correct"], rare["recall"]) == (genes * words, 0, 0, 0)
        assert scores["gold"] == scores["types"]["Drug"]["gold"] + rare["gold"]
        assert scores["recall"] == scores["correct"] / scores["gold"]
    gold = [
        orjson.loads(line)["gold"] for line in (tmp_path / "run/seed_1/predictions.jsonl").read_bytes().splitlines()
    ]
    assert sum(entity["type"] == "Gene" for line in gold for entity in line["entities"]) == 2


@pytest.mark.parametrize(
    ("task", "more", "several"),
    [("classification", [], False), ("relation", ["--negative", "no"], False), ("multilabel", [], True)],
)
def test_unseen_labels_of_texts_count_as_missed_and_runs_are_compared(
    task: str, more: list[str], several: bool, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def put(*labels: str) -> list[Any]:
        return [[label] for label in labels] if several else list(labels)

    folds = {"train": put("no", "yes") * 8, "dev": put("no", "yes"), "test": put("no", "yes", "maybe", "never")}
    data = labelled(tmp_path / "data", folds)
    runs = [tmp_path / "one", tmp_path / "two"]
    for seed, run in enumerate(runs):
        assert cli.run([*argv(tiny_model, task, data, run), *more, *COUNT, "--seed", str(seed)]) == 0
    assert "2 of labels unseen in training" in capsys.readouterr().out
    scores: dict[str, Any] = read_json(runs[0] / "scores.json")
    test = scores["test"]
    assert test["unseen"] == 2
    assert scores["dev"]["unseen"] == 0
    assert test["gold"] == (3 if task == "relation" else 4)
    assert test["types"]["maybe"]["gold"] == 1
    assert test[scores["metric"]] <= (0.5 if task == "classification" else 1.0)
    assert cli.run(["finetune", "compare", *map(str, runs), "--out", str(tmp_path / "compared.json")]) == 0
    compared: Any = read_json(tmp_path / "compared.json")["tasks"]
    assert [row["types"]["never"] for row in compared[0]["runs"]] == [0.0, 0.0]
    (tmp_path / "in.jsonl").write_text('{"text": "aspirin"}\n')
    assert cli.run(["finetune", "predict", str(runs[0]), str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "o")]) == 0


def test_the_option_is_for_labels(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*argv(tiny_model, "similarity", tmp_path, tmp_path / "run"), *COUNT]) == 2
    assert "--unseen_labels has no effect here: it needs --task ner, pico" in capsys.readouterr().err


def test_texts_without_any_label_are_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = labelled(tmp_path / "data", {fold: [[], []] for fold in ("train", "dev", "test")})
    assert cli.run([*argv(tiny_model, "multilabel", data, tmp_path / "run"), *COUNT]) == 2
    assert "train.jsonl: no record has a label" in capsys.readouterr().err


def test_one_label_alone_is_refused(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = labelled(tmp_path / "data", {fold: ["yes", "yes"] for fold in ("train", "dev", "test")})
    assert cli.run([*argv(tiny_model, "classification", data, tmp_path / "run"), *COUNT]) == 2
    assert "data: all training records have the same label" in capsys.readouterr().err


def questions(folder: Path, last: list[str]) -> Path:
    """A training fold in which A is always right, a test fold that ends with other choices."""
    folder.mkdir()
    for fold, more in (("train", []), ("dev", []), ("test", [(last, "B")])):
        asked = [(["liver", "heart"], "A"), (["lung", "kidney"], "A"), *more]
        rows = [{"text": fold, "options": choices, "label": label} for choices, label in asked]
        (folder / f"{fold}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return folder


def test_any_letter_of_a_choice_is_known(tiny_model: Path, tmp_path: Path) -> None:
    data = questions(tmp_path / "data", ["heart", "lung"])
    assert cli.run([*argv(tiny_model, "choice", data, tmp_path / "run"), "--columns.choices", "options"]) == 0
    scores: dict[str, Any] = read_json(tmp_path / "run/scores.json")
    assert scores["test"]["types"]["B"]["gold"] == 1


def test_questions_with_other_choices_are_named(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = questions(tmp_path / "data", ["heart", "lung", "liver"])
    assert cli.run([*argv(tiny_model, "choice", data, tmp_path / "run"), "--columns.choices", "options"]) == 2
    assert "test.jsonl (line 3): 3 choices, 2 before" in capsys.readouterr().err
