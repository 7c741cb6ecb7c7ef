"""`biomlm finetune` end to end on a toy language."""

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch

from biomlm.convert.load import load_model
from biomlm.core import checkpoint, cli
from biomlm.core.errors import DataError
from biomlm.core.files import read_json, sha256
from biomlm.finetune.config import FinetuneConfig, OptimConfig
from biomlm.finetune.data.readers.iob import read_iob
from biomlm.finetune.tasks.token_classification import Ner
from biomlm.finetune.training.fit import build_model
from biomlm.finetune.training.protocol import SealedTest
from biomlm.finetune.training.selection import BestEpoch
from biomlm.model.optim.optimizer import Optimizer, depth, schedule
from biomlm.tokenizer.formats import folder as tokenizer_folder

QUICK = ["--optim.lr", "3e-3", "--batch.size", "8", "--log_every", "5"]


def argv(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return ["finetune", "--model", str(model), "--task", "ner", "--data", str(data), "--out", str(out), *QUICK, *more]


@pytest.fixture(scope="module")
def whole(tiny_model: Path, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of six epochs."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert cli.run(argv(tiny_model, toy, out, "--epochs", "6", "--seeds", "2")) == 0
    return out


def predictions(run: Path, seed: int) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (run / f"seed_{seed}/predictions.jsonl").read_bytes().splitlines()]


def test_it_learns_and_reports_mean_deviation_and_interval(whole: Path) -> None:
    scores: dict[str, Any] = read_json(whole / "scores.json")
    test = scores["test"]
    assert test["f1"] > 0.9
    values = [run["test"]["f1"] for run in scores["runs"]]
    assert test["f1"] == pytest.approx(sum(values) / 2)
    assert test["f1_sd"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    low, high = test["f1_interval"]
    assert low <= test["f1"] <= high
    assert set(test["types"]) == {"Drug"}


def test_every_gold_entity_is_scored_though_sentences_are_longer_than_a_window(whole: Path, toy: Path) -> None:
    records = read_iob(toy / "test.tsv", "test")
    scores: dict[str, Any] = read_json(whole / "scores.json")
    assert scores["test"]["gold"] == sum(len(record.spans) for record in records)
    assert max(len(record.words) for record in records) > 32  # positions of the model
    for record, line in zip(records, predictions(whole, 1), strict=True):
        assert line["id"] == record.id
        assert [(e["start"], e["stop"]) for e in line["gold"]["entities"]] == [
            s[:2] for s in record.characters(record.spans)
        ]
        for entity in line["entities"]:
            assert record.text[entity["start"] : entity["stop"]].strip() != ""


def test_predictions_recount_to_the_score(whole: Path) -> None:
    lines = predictions(whole, 1)
    keys = ("start", "stop", "type")
    gold = [{tuple(e[k] for k in keys) for e in line["gold"]["entities"]} for line in lines]
    found = [{tuple(e[k] for k in keys) for e in line["entities"]} for line in lines]
    correct = sum(len(a & b) for a, b in zip(gold, found, strict=True))
    scores: dict[str, Any] = read_json(whole / "scores.json")
    assert scores["runs"][0]["test"]["f1"] == 2 * correct / (sum(map(len, gold)) + sum(map(len, found)))


def test_dev_selects_the_epoch_and_the_model(whole: Path) -> None:
    scores: dict[str, Any] = read_json(whole / "scores.json")
    for run in scores["runs"]:
        history: list[dict[str, Any]] = read_json(whole / f"seed_{run['seed']}/result.json")["history"]  # type: ignore[assignment]
        values = [entry["dev"]["f1"] for entry in history]
        assert run["epoch"] == values.index(max(values)) + 1
        assert "test" not in history[0]
    best = max(scores["runs"], key=lambda run: run["dev"]["f1"])
    assert scores["model_seed"] == best["seed"]


def test_the_run_folder_is_a_model(whole: Path, tiny_model: Path) -> None:
    loaded = load_model(whole)
    assert loaded.facts["id2label"] == {"0": "O", "1": "B-Drug", "2": "I-Drug"}
    assert loaded.extra_tensors["classification_heads.classifier.weight"].shape == (3, 32)
    before = load_model(tiny_model).model.state_dict()
    after = loaded.model.state_dict()
    assert not torch.equal(after["encoder.layers.0.mlp.up.weight"], before["encoder.layers.0.mlp.up.weight"])
    assert torch.equal(after["head.dense.weight"], before["head.dense.weight"])
    assert not list(whole.glob("seed_*/checkpoints"))


def test_a_second_call_scores_nothing_again(
    whole: Path, tiny_model: Path, toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SealedTest, "open", lambda *_: pytest.fail("the test fold was opened again"))
    assert cli.run(argv(tiny_model, toy, whole, "--epochs", "6", "--seeds", "2")) == 0
    assert "test f1" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bits(
    tiny_model: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, once, save = tmp_path / "cut", tmp_path / "once", checkpoint.save

    def stop_after_saving(*args: Any, **kwargs: Any) -> Path:
        save(*args, **kwargs)
        raise KeyboardInterrupt

    assert cli.run(argv(tiny_model, toy, once, "--epochs", "2")) == 0
    monkeypatch.setattr(checkpoint, "save", stop_after_saving)
    assert cli.run(argv(tiny_model, toy, out, "--epochs", "2")) == 130
    assert not (out / "scores.json").exists()
    monkeypatch.setattr(checkpoint, "save", save)
    assert cli.run(argv(tiny_model, toy, out, "--epochs", "2")) == 0
    for name in ("checkpoints/step_0/model.safetensors", "checkpoints/step_0/rest.safetensors"):
        assert sha256(out / name) == sha256(once / name)
    assert predictions(out, 1) == predictions(once, 1)


def test_the_test_fold_opens_once_a_seed_and_only_for_a_selected_model() -> None:
    sealed, selected = SealedTest(["record"]), BestEpoch(1, 0.5, {}, [])
    assert sealed.open(1, selected) == ["record"]
    assert sealed.open(2, selected) == ["record"]
    with pytest.raises(AssertionError, match="already scored"):
        sealed.open(1, selected)
    with pytest.raises(AssertionError, match="only a selected model"):
        sealed.open(3, "the best on test")  # type: ignore[arg-type]


def test_patience_stops_early(tiny_model: Path, toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "early"
    still = ["--optim.lr", "1e-12", "--epochs", "5", "--patience", "1"]
    assert cli.run([*argv(tiny_model, toy, out), *still]) == 0
    result = read_json(out / "seed_1/result.json")
    assert result["epoch"] == 1
    assert len(result["history"]) == 2  # type: ignore[arg-type]


def test_layer_decay_lowers_the_rate_towards_the_embeddings(tiny_model: Path) -> None:
    model = torch.nn.ModuleDict({"lm": load_model(tiny_model).model, "classifier": torch.nn.Linear(32, 3)})
    optimizer = Optimizer(dict(model.named_parameters()), 2, OptimConfig(lr=1.0, layer_decay=0.5, warmup=0), steps=10)
    names = {id(p): name for name, p in model.named_parameters()}
    for group in optimizer.inner.param_groups:
        for p in group["params"]:
            assert group["scale"] == 0.5 ** (3 - depth(names[id(p)], 2))
            assert (group["weight_decay"] == 0) == (p.ndim == 1)
    assert depth("lm.encoder.word_embeddings.weight", 2) == 0
    assert depth("lm.encoder.layers.1.mlp.up.weight", 2) == 2
    assert depth("classifier.weight", 2) == 3


def test_schedule() -> None:
    linear, cosine = OptimConfig(warmup=0.2), OptimConfig(warmup=0.2, schedule="cosine")
    assert [schedule(step, 10, linear) for step in (0, 1, 2, 6, 9)] == [0.5, 1.0, 1.0, 0.5, 0.125]
    assert [schedule(step, 10, cosine) for step in (0, 1, 2, 6)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    assert 0 < schedule(9, 10, cosine) < 0.125


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch.max_length", "64"], "reads 32 tokens"),
        (["--batch.overlap", "40"], "cannot share 40"),
        (["--epochs", "0"], "1 at least"),
        (["--freeze_layers", "2", "--reinit_layers", "1"], "has 2 layers"),
        (["--model", "nowhere"], "no such file"),
        (["--data", "nowhere"], "no such folder"),
    ],
)
def test_a_wrong_option_is_said_in_two_lines(
    more: list[str], message: str, tiny_model: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*argv(tiny_model, toy, tmp_path / "out"), *more]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") <= 2
    assert not (tmp_path / "out").exists()


def damaged(toy: Path, tmp_path: Path, fold: str, text: str) -> Path:
    folder = tmp_path / "damaged"
    shutil.copytree(toy, folder)
    (folder / f"{fold}.tsv").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("fold", "text", "message"),
    [
        ("devel", "", "devel.tsv: this fold is empty"),
        ("test", "a\tO\nb\tB-Gene\n", "test.tsv (line 1): the label Gene does not occur"),
        ("train", "a\tO\n", "no word carries an entity"),
    ],
)
def test_data_that_cannot_be_scored_are_refused(
    fold: str, text: str, message: str, tiny_model: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(argv(tiny_model, damaged(toy, tmp_path, fold, text), tmp_path / "out")) == 2
    assert message in capsys.readouterr().err


def test_training_texts_in_the_test_fold_are_counted_and_refused(
    tiny_model: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = damaged(toy, tmp_path, "test", (toy / "train.tsv").read_text())
    assert cli.run(argv(tiny_model, folder, tmp_path / "out")) == 2
    assert "160 of 160 records are in the training fold" in capsys.readouterr().err


def test_a_missing_fold_and_a_model_without_a_tokenizer(tiny_model: Path, toy: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare, ignore=shutil.ignore_patterns("tokenizer"))
    assert cli.run(argv(bare, toy, tmp_path / "out")) == 2
    (tmp_path / "half").mkdir()
    shutil.copy(toy / "train.tsv", tmp_path / "half")
    assert cli.run(argv(tiny_model, tmp_path / "half", tmp_path / "out")) == 2
    with pytest.raises(DataError, match="damaged"):
        (tmp_path / "x.tsv.gz").write_bytes(b"no gzip")
        read_iob(tmp_path / "x.tsv.gz", "train")


def test_a_grid_is_chosen_by_dev_without_the_test_fold(
    tiny_model: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, opened, original = tmp_path / "grid", [], SealedTest.open

    def counting(self: SealedTest[Any], seed: int, selected: BestEpoch) -> Any:
        opened.append(len(list((out / "grid").glob("*.json"))))
        return original(self, seed, selected)

    monkeypatch.setattr(SealedTest, "open", counting)
    grid = ["--epochs", "1", "--grid.lr", "1e-12", "3e-3", "--grid.size", "8", "16"]
    paths = ["--model", str(tiny_model), "--data", str(toy), "--out", str(out)]
    assert cli.run(["finetune", "--task", "ner", *paths, *grid]) == 0
    scores: dict[str, Any] = read_json(out / "scores.json")
    assert opened == [4]
    assert len(scores["grid"]) == 4
    best = max(scores["grid"], key=lambda point: point["dev f1"])
    assert (scores["lr"], scores["batch_size"]) == (best["lr"], best["size"])
    assert best["lr"] == 3e-3
    assert scores["dev"]["f1"] == best["dev f1"]


def test_layers_are_frozen_and_drawn_anew(tiny_model: Path) -> None:
    paths = {"model": "m", "task": "ner", "data": "d", "out": "o"}
    task: Any = Ner(tokenizer_folder.load(tiny_model / "tokenizer"), ("O", "B", "I"), 32, 8)
    config = FinetuneConfig(**paths, freeze_layers=1, reinit_layers=1)  # type: ignore[arg-type]
    before = load_model(tiny_model).model.state_dict()
    model = build_model(task, load_model(tiny_model), config)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[3] for name in trained if ".layers." in name} == {"1"}
    assert not any("embedding" in name for name in trained)
    after = model.state_dict()
    name = "encoder.layers.{}.mlp.up.weight"
    assert torch.equal(after[f"lm.{name.format(0)}"], before[name.format(0)])
    assert not torch.equal(after[f"lm.{name.format(1)}"], before[name.format(1)])
    again = build_model(task, load_model(tiny_model), config).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in after.items())


def test_override_starts_the_seeds_anew_but_more_seeds_go_on(
    tiny_model: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.run(argv(tiny_model, toy, out, "--epochs", "1")) == 0
    first = (out / "seed_1/result.json").read_bytes()
    assert cli.run(argv(tiny_model, toy, out, "--epochs", "1", "--seeds", "2")) == 2
    assert "another configuration: seeds" in capsys.readouterr().err
    assert cli.run(argv(tiny_model, toy, out, "--epochs", "1", "--seeds", "2", "--override")) == 0
    assert (out / "seed_1/result.json").read_bytes() == first
    assert read_json(out / "scores.json")["seeds"] == [1, 2]
    assert cli.run(argv(tiny_model, toy, out, "--epochs", "2", "--override")) == 0
    assert len(read_json(out / "seed_1/result.json")["history"]) == 2  # type: ignore[arg-type]
    assert not (out / "seed_2").exists()
