"""What one fold has of another, and numbers as they are written."""

from pathlib import Path

import orjson
import pytest
import torch

from biomlm.core import cli
from biomlm.core.errors import DataError
from biomlm.core.files import read_json
from biomlm.finetune.data.dataset import DataSet, count_shared
from biomlm.finetune.data.records import Labelled


def folds(**texts: list[str]) -> DataSet:
    found = {fold: [Labelled(f"{fold}:{i}", (text,)) for i, text in enumerate(rows)] for fold, rows in texts.items()}
    return DataSet([], found, dict.fromkeys(texts, Path("data")))


def test_dev_records_in_test_are_counted_and_refused() -> None:
    data = folds(train=["a", "b"], dev=["c", "d"], test=["c", "d"])
    with pytest.raises(DataError, match="2 of 2 records are in the development fold, too"):
        count_shared(data, 0.02)
    assert count_shared(data, 1.0) == {"dev": {"also in train": 0}, "test": {"also in train": 0, "also in dev": 2}}


def test_case_and_spacing_do_not_hide_a_record() -> None:
    data = folds(train=["Heart-attack (acute)  in mice."], dev=["x"], test=["heart - attack ( ACUTE ) in mice ."])
    with pytest.raises(DataError, match="1 of 1 records are in the training fold"):
        count_shared(data, 0.02)


def test_a_copy_of_dev_as_test_is_refused(
    tiny_model: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold, source in (("train", "train"), ("devel", "devel"), ("test", "devel")):
        (tmp_path / f"{fold}.tsv").write_bytes((toy / f"{source}.tsv").read_bytes())
    argv = ["--model", str(tiny_model), "--task", "ner", "--data", str(tmp_path), "--epochs", "1"]
    out = tmp_path.with_name("copy")
    assert cli.run(["finetune", *argv, "--out", str(out)]) == 2
    assert "30 of 30 records are in the development fold, too" in capsys.readouterr().err
    assert cli.run(["finetune", *argv, "--out", str(out), "--max_shared", "1"]) == 0
    assert read_json(out / "scores.json")["counts"]["test"]["also in dev"] == 30  # type: ignore[index]


def test_numbers_are_not_rounded_to_bf16(tiny_model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for fold, count in (("train", 24), ("dev", 8), ("test", 8)):
        rows = [{"text": f"aspirin {fold} {i}", "pair": "often", "label": 1 + i % 3} for i in range(count)]
        (data / f"{fold}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    out = tmp_path / "run"
    argv = ["--model", str(tiny_model), "--task", "similarity", "--data", str(data), "--columns.pair", "pair"]
    assert cli.run(["finetune", *argv, "--epochs", "3", "--optim.lr", "1e-3", "--out", str(out)]) == 0
    values = {}
    for precision in ("bf16", "fp32"):
        argv = [str(out), str(data / "test.jsonl"), "--text", "text", "pair", "--precision", precision]
        assert cli.run(["finetune", "predict", *argv, "--out", str(tmp_path / precision)]) == 0
        lines = [orjson.loads(line) for line in (tmp_path / precision).read_bytes().splitlines()]
        values[precision] = torch.tensor([line["value"] for line in lines], dtype=torch.float64)
    bf16, fp32 = values["bf16"], values["fp32"]
    assert (bf16 != bf16.bfloat16().double()).sum() >= 6  # of 8; one in 65,536 numbers of fp32 is one of bf16 as well
    assert torch.allclose(bf16, fp32, atol=0.05)
