"""Tasks on whole texts, end to end; prediction and comparison."""

import gzip
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from biomlm.core import cli
from biomlm.core.config import parse
from biomlm.core.files import read_json
from biomlm.finetune.config import PredictConfig
from biomlm.finetune.metrics.labels import LabelScorer, PearsonScorer
from biomlm.finetune.tasks.examples import collate
from biomlm.finetune.tasks.inputs import pair_windows, segment_ids, text_windows
from biomlm.finetune.tasks.text_classification import Choice, Classification
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.packed import pack
from biomlm.tokenizer.formats import folder as tokenizer_folder
from biomlm.tokenizer.formats.folder import SpecialIds

DRUGS, ORGANS = ("aspirin", "heparin", "insulin", "metformin"), ("heart", "liver", "kidney", "lung")
QUICK = ["--optim.lr", "3e-3", "--batch.size", "8", "--epochs", "5"]
SPECIAL = SpecialIds(bos=0, pad=1, eos=2, unk=3, mask=4)


def row(task: str, rng: random.Random) -> dict[str, Any]:
    drug, other = rng.sample(DRUGS, 2)
    organ = rng.choice(ORGANS)
    filler = " ".join(rng.choice(("often", "the", "patient", "with")) for _ in range(rng.choice((2, 40))))
    first = DRUGS.index(drug) < 2
    if task == "multilabel":
        return {"text": f"{drug} {filler} {other}", "label": sorted({drug, other})}
    if task == "similarity":
        return {"text": f"{drug} {organ}", "pair": f"{drug if first else other}", "label": float(first)}
    if task == "choice":
        right = rng.randrange(2)
        options = [f"treatment {filler}", f"treatment {filler}"]
        options[right] = f"{drug} {filler}"
        return {"text": f"{organ}", "options": options, "label": "AB"[right]}
    return {"text": f"{filler} {drug}", "pair": organ, "label": "true" if first else "false"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    def make(task: str) -> Path:
        where, rng = tmp_path_factory.mktemp(task), random.Random(1)
        for fold, count in (("train", 160), ("dev", 24), ("test", 24)):
            lines = [orjson.dumps({**row(task, rng), "id": f"{fold}-{i}"}) for i in range(count)]
            (where / f"{fold}.jsonl").write_bytes(b"\n".join(lines))
        return where

    return make


def finetune(model: Path, data: Path, out: Path, task: str, *more: str) -> dict[str, Any]:
    argv = ["--model", str(model), "--task", task, "--data", str(data), "--out", str(out), "--columns.id", "id"]
    assert cli.run(["finetune", *argv, *QUICK, "--max_shared", "1", *more]) == 0
    return read_json(out / "scores.json")


@pytest.mark.parametrize(
    ("task", "more", "metric", "least"),
    [
        ("classification", ["--columns.pair", "pair", "--class_weights"], "accuracy", 0.9),
        ("relation", ["--columns.pair", "pair", "--negative", "false"], "f1", 0.9),
        ("multilabel", [], "f1", 0.5),
        ("similarity", ["--columns.pair", "pair"], "pearson", 0.8),
        ("choice", ["--columns.choices", "options"], "accuracy", 0.9),
    ],
)
def test_each_task_learns(
    task: str,
    more: list[str],
    metric: str,
    least: float,
    tiny_model: Path,
    folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    scores = finetune(tiny_model, folder(task), tmp_path / "run", task, *more)
    assert scores["metric"] == metric
    assert scores["test"][metric] > least
    low, high = scores["test"][f"{metric}_interval"]
    assert low <= scores["test"][metric] <= high


def test_predict_says_what_the_run_said_of_its_test_fold(
    tiny_model: Path, folder: Callable[[str], Path], tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    data, run = folder("classification"), tmp_path / "run"
    finetune(tiny_model, data, run, "classification", "--columns.pair", "pair", "--precision", "fp32")
    packed = tmp_path / "test.jsonl.gz"
    packed.write_bytes(gzip.compress((data / "test.jsonl").read_bytes()))
    out = tmp_path / "predicted.jsonl"
    how = ["--text", "text", "pair", "--precision", "fp32"]
    assert cli.run(["finetune", "predict", str(run), str(packed), "--out", str(out), *how]) == 0
    predicted = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    said = [orjson.loads(line) for line in (run / "seed_1/predictions.jsonl").read_bytes().splitlines()]
    assert [(p["id"], p["label"]) for p in predicted] == [(s["id"], s["label"]) for s in said]
    capfdbinary.readouterr()
    assert cli.run(["finetune", "predict", str(run), str(packed), *how]) == 0
    assert capfdbinary.readouterr().out == out.read_bytes()
    whole = packed.read_bytes()
    capfdbinary.readouterr()
    assert cli.run(["finetune", "predict", str(run), str(packed)]) == 2
    assert b"was trained on 2 texts a record, not 1" in capfdbinary.readouterr().err
    for broken in (whole[:-20], whole[:60] + bytes(20) + whole[80:]):
        packed.write_bytes(broken)
        capfdbinary.readouterr()
        assert cli.run(["finetune", "predict", str(run), str(packed), "--out", str(tmp_path / "x"), *how]) == 2
        assert b"test.jsonl.gz: this gzip file is damaged" in capfdbinary.readouterr().err
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        (b'{"text": "a"}\n{"txt": "b"}\n', [], "line 2): this is no JSON object with text under text"),
        (b'{"text": 5}\n', [], "line 1): this is no JSON object"),
        (b"nonsense\n", [], "line 1): this is no JSON object"),
        (b'{"text": "a", "b": "c"}\n', ["--text", "text", "b", "b"], "was trained on 1 text a record, not 3"),
    ],
)
def test_predict_refuses_in_two_lines(
    text: bytes, more: list[str], message: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_bytes(text)
    argv = [str(made), str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl"), *more]
    assert cli.run(["finetune", "predict", *argv]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_predict_names_a_file_that_it_does_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["RUN", str(tmp_path / "test.csv"), "--out", str(tmp_path / "out.jsonl")]
    assert cli.run(["finetune", "predict", *argv]) == 2
    assert (
        f"{tmp_path / 'test.csv'}: the file ends in none of .jsonl, .txt, .tsv, .iob, .conll, .pubtator"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", ["n.jsonl", "N.JSONL", "n.jsonl.gz", "N.JSONL.GZ", "n.jsonl.xz"])
def test_options_of_json_lines_apply_whatever_the_suffix(name: str) -> None:
    words = ["RUN", name, "--text", "note", "--id", "number"]
    config = parse(PredictConfig, words, prog="biomlm finetune predict", positionals=("model", "file"))
    assert (config.text, config.id) == (["note"], "number")


@pytest.fixture(scope="module")
def made(tiny_model: Path, folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch with two seeds."""
    run = tmp_path_factory.mktemp("made") / "run"
    finetune(tiny_model, folder("relation"), run, "relation", "--negative", "false", "--epochs", "1", "--seeds", "2")
    return run


def test_plain_models_do_not_predict(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").write_text("aspirin\n")
    assert cli.run(["finetune", "predict", str(tiny_model), str(tmp_path / "in.txt")]) == 2
    assert "was not fine-tuned" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "relation"], "relation needs --negative"),
        (["--task", "relation", "--negative", "maybe"], "no label of the training fold"),
        (["--task", "classification", "--negative", "false"], "it needs --task relation"),
        (["--task", "classification", "--repair_tags"], "it needs --task ner or pico"),
        (["--task", "classification", "--columns.label", "answer"], "the column answer is missing"),
        (["--task", "choice"], "needs --columns.choices"),
    ],
)
def test_options_that_do_not_apply_are_refused(
    more: list[str],
    message: str,
    tiny_model: Path,
    folder: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = folder("choice" if "choice" in more else "relation")
    argv = ["--model", str(tiny_model), "--data", str(data), "--out", str(tmp_path / "out"), "--max_shared", "1"]
    assert cli.run(["finetune", *argv, *more]) == 2
    assert message in capsys.readouterr().err


@given(st.integers(0, 80), st.integers(0, 80), st.integers(16, 40), st.data())
def test_pairs_keep_every_token(a: int, b: int, max_length: int, data: st.DataObject) -> None:
    first, second = list(range(100, 100 + a)), list(range(1000, 1000 + b))
    segments = data.draw(st.booleans())
    found = pair_windows(first, second, SPECIAL, max_length=max_length, overlap=max_length // 4, segments=segments)
    seen = {token for ids in found for token in ids}
    assert seen >= {*first, *second}
    assert all(len(ids) <= max_length for ids in found)
    if a + b + 4 <= max_length:
        assert found == [[0, *first, 2, *([] if segments else [2]), *second, 2]]
    for ids in found:
        kinds = zip(segment_ids(ids, 2), ids, strict=True)
        assert all(kind == int(token >= 1000) for kind, token in kinds if token >= 100)
    cut = text_windows(first, SPECIAL, max_length, max_length // 4)
    assert {token for ids in cut for token in ids} >= set(first)
    assert all(len(ids) <= max_length for ids in cut)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=3, max_size=30))
def test_pearson_equals_numpy(points: list[tuple[float, float]]) -> None:
    x, y = np.array(points).T
    if x.std() < 1e-3 or y.std() < 1e-3:
        return
    scorer = PearsonScorer()
    assert scorer.value(scorer.sums(x.tolist(), y.tolist()).sum(0)) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)


def test_relation_f1_leaves_the_negative_class_out() -> None:
    scorer = LabelScorer(("a", "b", "none"), "f1", "none")
    gold = [frozenset([g]) for g in ("a", "a", "b", "none", "none")]
    predicted = [frozenset([p]) for p in ("a", "none", "b", "a", "none")]
    report = scorer.report(scorer.sums(gold, predicted).sum(0))
    assert (report["correct"], report["predicted"], report["gold"]) == (2, 3, 3)
    assert report["f1"] == pytest.approx(2 / 3)
    assert report["types"]["none"]["f1"] == 0.5


def test_class_weights_multiply_the_loss(tiny_tokenizer: Path) -> None:
    tokenizer = tokenizer_folder.load(tiny_tokenizer)
    outputs, targets = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])
    plain = Classification(tokenizer, ("a", "b"), 32, 8)
    losses = [float(plain.loss(outputs[i : i + 1], targets[i : i + 1])) for i in range(4)]
    weighted = Classification(tokenizer, ("a", "b"), 32, 8, weights=(2.0, 0.5))
    assert float(weighted.loss(outputs, targets)) == pytest.approx(
        2 * (losses[0] + losses[3]) + 0.5 * (losses[1] + losses[2]), rel=1e-6
    )


def test_choice_loss_is_a_mean_over_questions(tiny_tokenizer: Path) -> None:
    task = Choice(tokenizer_folder.load(tiny_tokenizer), ("A", "B"), 32, 8)
    outputs = torch.tensor([[1.0], [2.0], [0.5], [0.0]])
    expected = torch.nn.functional.cross_entropy(outputs.view(2, 2), torch.tensor([1, 0]))
    assert float(task.loss(outputs, torch.tensor([0, 1, 1, 0])) / 4) == pytest.approx(float(expected))


def test_a_model_with_segments_is_told_which_text_is_which(tiny_tokenizer: Path) -> None:
    tokenizer = tokenizer_folder.load(tiny_tokenizer)
    task = Classification(tokenizer, ("a", "b"), 32, 8, segments=True, texts=2)
    (example,) = task.examples([task.unlabelled("1", ["aspirin", "heart"], 1)])[0]
    packed = collate([example]).packed
    assert packed.token_type_ids_t is not None
    first = len(tokenizer.encode("aspirin")) + 2
    assert packed.token_type_ids_t.tolist() == [0] * first + [1] * (len(example.sequences[0]) - first)
    config = EncoderConfig(tokenizer.vocab_size, 32, 1, 2, 64, max_positions=32, type_vocab_size=2, shape="bert")
    torch.manual_seed(0)
    model, place = task.head(MaskedLM(config)).eval(), torch.tensor([0])
    assert not torch.equal(model(packed, place), model(pack(example.sequences), place))
