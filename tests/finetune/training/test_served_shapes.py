"""Train, predict, convert, transformers' pipeline: the same labels and numbers, for every task and every shape of model."""

import random
import runpy
import string
import warnings
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
import transformers
from transformers import pipeline

from biomlm.convert.formats import native
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.core import cli
from biomlm.core.files import read_json
from biomlm.finetune.data.readers.iob import read_iob
from biomlm.finetune.data.records import Tagged
from biomlm.finetune.tasks.registry import TASKS
from biomlm.finetune.training import checkpoint as saved
from biomlm.finetune.training.inference import outputs
from biomlm.model.config import EncoderConfig
from biomlm.model.device import choose
from biomlm.model.encoder import MaskedLM
from biomlm.model.shapes import SHAPES
from biomlm.tokenizer.formats import bert, vocab_txt
from biomlm.tokenizer.formats import folder as tokenizer_folder

DRUGS = ("aspirin", "heparin", "insulin", "metformin")
ORGANS = ("heart", "liver", "kidney")
QUICK = ["--epochs", "1", "--optim.lr", "1e-2", "--batch.size", "4", "--precision", "fp32"]
COLUMNS = {
    "classification": ["--columns.pair", "pair"],
    "relation": ["--negative", "none", "--columns.label", "relation"],
    "multilabel": ["--columns.label", "labels"],
    "similarity": ["--columns.pair", "pair", "--columns.label", "value"],
    "choice": ["--columns.choices", "choices", "--columns.label", "right"],
}
KEYS = {"classification": ["text", "pair"], "similarity": ["text", "pair"], "choice": ["text", "choices"]}
PROBLEMS = {
    "classification": "single_label_classification",
    "relation": "single_label_classification",
    "multilabel": "multi_label_classification",
    "similarity": "regression",
}
CLASSES = {"ner": "TokenClassification", "pico": "TokenClassification", "choice": "MultipleChoice"}


@pytest.fixture(scope="module")
def word_pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pieces")
    letters = [*string.ascii_lowercase, *string.digits]
    pieces = [*bert.SPECIALS, *letters, *(f"##{x}" for x in letters), ".", ",", *DRUGS, *ORGANS, "often", "##in"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    vocab_txt.write_folder(folder / "vocab.txt", folder / "tokenizer", model_max_length=64)
    return folder / "tokenizer"


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest, tiny_tokenizer: Path, word_pieces: Path, tmp_path_factory: Any) -> Path:
    """A random model of each shape, with the kind of tokenizer that its published models have."""
    folder: Path = tmp_path_factory.mktemp("models") / request.param
    folder.mkdir()
    torch.manual_seed(0)
    place = word_pieces if SHAPES[request.param].token_types else tiny_tokenizer
    tokenizer = tokenizer_folder.load(place)
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_positions=64,
        type_vocab_size=SHAPES[request.param].token_types,
        layer_norm_eps=SHAPES[request.param].layer_norm_eps,
        initializer_range=0.3,
        pad_token_id=tokenizer.ids.pad,
        shape=request.param,
    )
    native.write(SourceCheckpoint("native", config, MaskedLM(config).state_dict(), folder), folder, torch.float32)
    tokenizer_folder.copy(place, folder / native.TOKENIZER)
    return folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("tables"), random.Random(4)
    for fold, count in (("train", 24), ("dev", 8), ("test", 16)):
        rows = []
        for i in range(count):
            a, b = rng.sample(DRUGS, 2) if i % 3 else [rng.choice(DRUGS)] * 2
            row = {
                "text": f"{a} {fold} {i} in {rng.choice(ORGANS)}.",
                "pair": f"often {b}",
                "value": 4.5 if a == b else 1.25,
            }
            row |= {"label": "same" if a == b else "other", "labels": sorted({a, b}), "choices": [b, "rest", a]}
            rows.append({**row, "relation": ("none", "helps", "harms")[i % 3], "right": "ABC"[rng.randrange(3)]})
        (folder / f"{fold}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return folder


def served(model: Path, task: str, data: Path, folder: Path) -> tuple[Path, Path]:
    argv = ["--model", str(model), "--task", task, "--data", str(data), "--out", str(folder / "run")]
    assert cli.run(["finetune", *argv, *QUICK, *COLUMNS.get(task, [])]) == 0
    assert cli.run(["convert", str(folder / "run"), str(folder / "hf"), "--to", "hf"]) == 0
    return folder / "run", folder / "hf"


def run_card(hf: Path, tag: str) -> None:
    """The example of its card runs as it stands, and its header names the task."""
    card = (hf / "README.md").read_text()
    assert f"pipeline_tag: {tag}\n" in card
    example = card.split("```python\n")[1].split("```")[0].replace("path/to/this/folder", str(hf))
    (hf.parent / "example.py").write_text(example)
    with (
        warnings.catch_warnings()
    ):  # byte-level pieces do not mark what is inside a word; transformers goes by the blanks then, and warns
        warnings.filterwarnings("ignore", "Tokenizer does not support real words")
        runpy.run_path(str(hf.parent / "example.py"))


def predicted(run: Path, rows: list[dict[str, Any]], folder: Path, keys: list[str]) -> list[dict[str, Any]]:
    (folder / "in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    argv = ["finetune", "predict", str(run), str(folder / "in.jsonl"), "--out", str(folder / "out.jsonl")]
    assert cli.run([*argv, "--precision", "fp32", "--text", *keys]) == 0
    return [orjson.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("task", [name for name in TASKS if name not in ("ner", "pico", "choice")])
def test_texts_get_the_same_labels_there(task: str, model: Path, tables: Path, tmp_path: Path) -> None:
    run, hf = served(model, task, tables, tmp_path)
    run_card(hf, "text-classification")
    config = read_json(hf / "config.json")
    assert config["problem_type"] == PROBLEMS[task]
    assert config["architectures"] == [getattr(transformers, config["architectures"][0]).__name__]
    assert config["architectures"][0].endswith("ForSequenceClassification")
    rows = [orjson.loads(line) for line in (tables / "test.jsonl").read_bytes().splitlines()]
    keys = KEYS.get(task, ["text"])
    given = [{"text": r["text"], "text_pair": r["pair"]} if "pair" in keys else r["text"] for r in rows]
    lines = predicted(run, rows, tmp_path, keys)
    scorer: Any = pipeline("text-classification", model=str(hf), top_k=None)
    found = [scorer([one])[0] for one in given]
    if task == "similarity":
        assert [line["value"] for line in lines] == pytest.approx([labels[0]["score"] for labels in found], abs=1e-4)
    elif task == "multilabel":
        theirs = [sorted(label["label"] for label in labels if label["score"] > 0.5) for labels in found]
        assert [line["labels"] for line in lines] == theirs
    else:
        assert [line["label"] for line in lines] == [labels[0]["label"] for labels in found]
    served_task, trained = saved.read(str(run))
    records = [served_task.unlabelled("a", [row[key] for key in keys], 1) for row in rows]
    ours = outputs(trained, served_task.examples(records), 512, choose("fp32"))
    for one, numbers in zip(given, ours, strict=True):
        theirs = {label["label"]: label["score"] for label in scorer([one], function_to_apply="none")[0]}
        assert numbers[0].tolist() == pytest.approx([theirs[label] for label in served_task.labels], abs=1e-4)


def test_choices_are_the_same_there(model: Path, tables: Path, tmp_path: Path) -> None:
    run, hf = served(model, "choice", tables, tmp_path)
    assert read_json(hf / "config.json")["architectures"][0].endswith("ForMultipleChoice")
    run_card(hf, "multiple-choice")
    rows = [orjson.loads(line) for line in (tables / "test.jsonl").read_bytes().splitlines()]
    flat = [{"q": r["text"], **{f"c{i}": c for i, c in enumerate(r["choices"])}} for r in rows]
    lines = predicted(run, flat, tmp_path, ["q", "c0", "c1", "c2"])
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(hf)
    chooser: Any = transformers.AutoModelForMultipleChoice.from_pretrained(hf).eval()
    for row, line in zip(rows, lines, strict=True):
        inputs = tokenizer([row["text"]] * 3, row["choices"], return_tensors="pt", padding=True)
        with torch.inference_mode():
            scores = chooser(**{name: values[None] for name, values in inputs.items()}).logits[0]
        assert line["label"] == "ABC"[int(scores.argmax())]


@pytest.fixture(scope="module", params=["words", "running text"])
def labelled(request: pytest.FixtureRequest, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy language as a file of words with tags, or as documents of brat with marks that follow words directly."""
    if request.param == "words":
        return toy
    folder = tmp_path_factory.mktemp("running")
    for fold in ("train", "devel", "test"):
        (folder / fold).mkdir()
        for number, record in enumerate(read_iob(toy / f"{fold}.tsv", fold)):
            text, places = glued(record)
            spans = [f"{places[s.start][0]} {places[s.stop - 1][1]}" for s in record.spans]
            lines = [
                f"T{i}\tDrug {at}\t{text[int(at.split()[0]) : int(at.split()[1])]}\n" for i, at in enumerate(spans)
            ]
            (folder / fold / f"{fold}{number:03}.txt").write_text(text)
            (folder / fold / f"{fold}{number:03}.ann").write_text("".join(lines))
    return folder


def glued(record: Tagged) -> tuple[str, list[tuple[int, int]]]:
    """A sentence as it is written, with brackets and a full stop; and where its words are."""
    text, places = "(", []
    for start, stop in record.words:
        word = record.text[start:stop]
        text += word if word == "," or text == "(" else f" {word}"
        places.append((len(text) - len(word), len(text)))
    return f"{text}).", places


@pytest.mark.parametrize("task", ["ner", "pico"])
def test_running_text_gets_the_same_tags_there(
    task: str, labelled: Path, model: Path, toy: Path, tmp_path: Path
) -> None:
    """Marks that follow words directly, runs of them, and more than one blank between words."""
    run, hf = served(model, task, labelled, tmp_path)
    short = [record for record in read_iob(toy / "test.tsv", "test") if len(record.words) < 13]
    texts = [glued(record)[0].replace(" of ", "  of\u00a0") for record in short]
    lines = predicted(run, [{"text": text} for text in texts], tmp_path, ["text"])
    rule = saved.read(str(run))[0].cutting
    tagger: Any = pipeline("token-classification", model=str(hf), ignore_labels=[])
    for text, line in zip(texts, lines, strict=True):
        words, tags = rule.words(text), {}
        for token in tagger(text):
            word = next(w for w in words if w[1] > token["start"])
            tags.setdefault(word, token["entity"])
        assert set(tags) == set(words)
        inside = {w for w in words for e in line["entities"] if e["start"] <= w[0] < e["stop"]}
        assert inside == {word for word, tag in tags.items() if tag != "O"}
    assert any(line["entities"] for line in lines)


@pytest.mark.parametrize("task", ["ner", "pico"])
def test_words_get_the_same_tags_there(task: str, model: Path, toy: Path, tmp_path: Path) -> None:
    run, hf = served(model, task, toy, tmp_path)
    assert read_json(hf / "config.json")["architectures"][0].endswith("ForTokenClassification")
    run_card(hf, "token-classification")
    records = [record for record in read_iob(toy / "test.tsv", "test") if len(record.words) < 13]
    tagger: Any = pipeline("token-classification", model=str(hf), ignore_labels=[])
    lines = predicted(run, [{"text": record.text} for record in records], tmp_path, ["text"])
    assert len(records) > 10
    for record, line in zip(records, lines, strict=True):
        tags = {}
        for token in tagger(record.text):
            word = next(w for w in record.words if w[1] > token["start"])  # a piece may be the blank before its word
            tags.setdefault(word, token["entity"])
        assert set(tags) == set(record.words)
        inside = {w for w in record.words for e in line["entities"] if e["start"] <= w[0] < e["stop"]}
        assert inside == {word for word, tag in tags.items() if tag != "O"}
    assert any(line["entities"] for line in lines)
    if task == "ner" and (hf / "vocab.txt").exists():
        assert_same_entities(hf, records, lines)


def assert_same_entities(hf: Path, records: list[Tagged], lines: list[dict[str, Any]]) -> None:
    """The pipeline's own way of joining pieces to entities, by each word's first one, gives the same for WordPiece.

    Of byte-level pieces, which do not mark what is inside a word, it guesses by the blanks, and takes a blank alone for a word.
    """
    joining: Any = pipeline("token-classification", model=str(hf), aggregation_strategy="first")
    for record, line in zip(records, lines, strict=True):
        groups = joining(record.text)
        spans = [(e["start"], e["end"], e["entity_group"]) for e in groups]
        assert spans == [(e["start"], e["stop"], e["type"]) for e in line["entities"]]


def test_the_card_of_a_model_before_fine_tuning_runs(model: Path, tmp_path: Path) -> None:
    assert cli.run(["convert", str(model), str(tmp_path / "hf"), "--to", "hf"]) == 0
    run_card(tmp_path / "hf", "fill-mask")
