"""A fine-tuned model in Hugging Face's form says there what it says here: by transformers' own pipelines and classes."""

import random
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
import transformers
from tokenizers import Tokenizer as HuggingFace
from transformers import pipeline

from biomlm.convert.commands.convert import is_conversion
from biomlm.core import cli
from biomlm.core.files import read_json
from biomlm.finetune.data.readers.iob import read_iob
from biomlm.finetune.training import checkpoint as saved

QUICK = ["--epochs", "2", "--optim.lr", "3e-3", "--batch.size", "8", "--precision", "fp32"]


def trained(model: Path, task: str, data: Path, out: Path, *more: str) -> tuple[Path, Path]:
    """A run and its conversion."""
    argv = ["--model", str(model), "--task", task, "--data", str(data), "--out", str(out), *QUICK, *more]
    assert cli.run(["finetune", *argv]) == 0
    assert cli.run(["convert", str(out), str(out) + "-hf", "--to", "hf"]) == 0
    return out, Path(f"{out}-hf")


def predicted(run: Path, rows: list[dict[str, Any]], folder: Path, *more: str) -> list[dict[str, Any]]:
    (folder / "in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    argv = ["finetune", "predict", str(run), str(folder / "in.jsonl"), "--out", str(folder / "out.jsonl")]
    assert cli.run([*argv, "--precision", "fp32", *more]) == 0
    lines = [orjson.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]
    (folder / "out.jsonl").unlink()
    return lines


@pytest.fixture(scope="module")
def words(tiny_model: Path, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return trained(tiny_model, "ner", toy, tmp_path_factory.mktemp("served") / "words")


def whole(task: Any, toy: Path) -> list[tuple[Any, Any]]:
    """The test records that one window holds, and their examples."""
    records = read_iob(toy / "test.tsv", "test")
    found = [pair for pair in zip(records, task.examples(records), strict=True) if len(pair[1]) == 1]
    assert len(found) > 10
    return found


def test_words_have_the_same_ids_there(words: tuple[Path, Path], toy: Path) -> None:
    task, _ = saved.read(str(words[0]))
    alone = HuggingFace.from_file(str(words[1] / "tokenizer.json"))
    theirs: Any = transformers.AutoTokenizer.from_pretrained(words[1])
    for record, (example,) in whole(task, toy):
        given = [record.text[a:b] for a, b in record.words]
        assert theirs(given, is_split_into_words=True)["input_ids"] == example.sequences[0]
        assert theirs(record.text)["input_ids"] == example.sequences[0]
        assert alone.encode(record.text).ids == example.sequences[0]


def test_the_pipeline_says_the_same_of_every_word(words: tuple[Path, Path], toy: Path, tmp_path: Path) -> None:
    records = [record for record, _ in whole(saved.read(str(words[0]))[0], toy)]
    tagger: Any = pipeline("token-classification", model=str(words[1]), ignore_labels=[])
    theirs_tokenizer: Any = transformers.AutoTokenizer.from_pretrained(words[1])
    lines = predicted(words[0], [{"text": record.text} for record in records], tmp_path)
    for record, line in zip(records, lines, strict=True):
        given = [record.text[a:b] for a, b in record.words]
        owners = theirs_tokenizer(given, is_split_into_words=True, add_special_tokens=False).word_ids()
        tags = [token["entity"] for token in tagger(record.text)]
        said = {record.words[i]: tags[owners.index(i)] for i in range(len(given))}
        inside = {w for w in record.words for e in line["entities"] if e["start"] <= w[0] < e["stop"]}
        begun = {e["start"] for e in line["entities"]}
        assert inside == {word for word, tag in said.items() if tag != "O"}
        assert {start for (start, _), tag in said.items() if tag[0] == "B"} <= begun
    assert sum(len(line["entities"]) for line in lines) > 5


def test_a_second_conversion_keeps_it(words: tuple[Path, Path], tmp_path: Path) -> None:
    last = words[1]
    for kind in ("hf", "native", "hf"):
        assert cli.run(["convert", str(last), str(tmp_path / f"{kind}-{last.name}"), "--to", kind]) == 0
        last = tmp_path / f"{kind}-{last.name}"
        if kind == "hf":
            assert read_json(last / "tokenizer_config.json")["add_prefix_space"] is True
            assert read_json(last / "config.json")["finetuned_for"] == "ner"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs with a number, and texts with labels, of the tiny language."""
    folder, rng = tmp_path_factory.mktemp("texts"), random.Random(4)
    drugs = ("aspirin", "heparin", "insulin", "metformin")
    for fold, count in (("train", 40), ("dev", 10), ("test", 10)):
        rows = []
        for i in range(count):
            a, b = rng.sample(drugs, 2) if i % 3 else [rng.choice(drugs)] * 2
            pair = {"text": f"{a} {fold} {i}", "pair": f"often {b}", "value": 4.5 if a == b else 1.25}
            rows.append({**pair, "label": "same" if a == b else "other", "labels": sorted({a, b})})
        (folder / f"{fold}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return folder


def test_numbers_are_numbers_there(tiny_model: Path, texts: Path, tmp_path: Path) -> None:
    columns = ["--columns.pair", "pair", "--columns.label", "value"]
    run, hf = trained(tiny_model, "similarity", texts, tmp_path / "numbers", *columns)
    assert read_json(hf / "config.json")["problem_type"] == "regression"
    rows = [orjson.loads(line) for line in (texts / "test.jsonl").read_bytes().splitlines()]
    ours = [line["value"] for line in predicted(run, rows, tmp_path, "--text", "text", "pair")]
    scorer: Any = pipeline("text-classification", model=str(hf))
    theirs = [scorer({"text": row["text"], "text_pair": row["pair"]})["score"] for row in rows]
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert max(ours) > 1.01  # a sigmoid would end at 1


def test_any_number_of_labels_there(tiny_model: Path, texts: Path, tmp_path: Path) -> None:
    run, hf = trained(tiny_model, "multilabel", texts, tmp_path / "many", "--columns.label", "labels")
    assert read_json(hf / "config.json")["problem_type"] == "multi_label_classification"
    rows = [orjson.loads(line) for line in (texts / "test.jsonl").read_bytes().splitlines()]
    ours = [line["labels"] for line in predicted(run, rows, tmp_path)]
    scorer: Any = pipeline("text-classification", model=str(hf), top_k=None)
    found = scorer([row["text"] for row in rows])
    theirs = [sorted(label["label"] for label in labels if label["score"] > 0.5) for labels in found]
    assert ours == theirs
    labelled: Any = transformers.AutoModelForSequenceClassification.from_pretrained(hf)
    loss = labelled(input_ids=torch.tensor([[0, 5, 2]]), labels=torch.ones(1, 4)).loss
    assert torch.isfinite(loss)


def test_one_label_there(tiny_model: Path, texts: Path, tmp_path: Path) -> None:
    run, hf = trained(tiny_model, "classification", texts, tmp_path / "one")
    assert read_json(hf / "config.json")["problem_type"] == "single_label_classification"
    rows = [orjson.loads(line) for line in (texts / "test.jsonl").read_bytes().splitlines()]
    ours = [line["label"] for line in predicted(run, rows, tmp_path)]
    scorer: Any = pipeline("text-classification", model=str(hf))
    assert ours == [found["label"] for found in scorer([row["text"] for row in rows])]


def test_what_was_put_into_a_conversion_is_not_replaced(
    words: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    shutil.copytree(words[1], again)
    assert is_conversion(again)
    (again / "thesis.txt").write_text("mine")
    assert cli.run(["convert", str(words[0]), str(again), "--to", "hf", "--override"]) == 2
    assert capsys.readouterr().err.endswith("this command did not write it.\nGive another DST.\n")
    assert (again / "thesis.txt").read_text() == "mine"
