"""Served is trained: a text to predict is cut into words, and these are read, as the training fold's are."""

import gzip
import random
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFace
from tokenizers.pre_tokenizers import BertPreTokenizer, WhitespaceSplit

from biomlm.core import cli
from biomlm.finetune.data.readers.iob import read_iob, sentence
from biomlm.finetune.data.readers.pubtator import tag_words
from biomlm.finetune.data.words import learn_cutting
from biomlm.finetune.tasks.token_classification import Ner
from biomlm.tokenizer.encoding.cutting import Cutting
from biomlm.tokenizer.formats import folder as tokenizer_folder

DEMO = Path(__file__).parents[3] / "demo/data/pubmed/works_01.xml.gz"
TREEBANK = re.compile(r"\w+(?:[-/'.,]\w+)*|[^\w\s]")
CUTTERS: dict[str, Callable[[str], list[str]]] = {
    "every mark": lambda text: [word for word, _ in BertPreTokenizer().pre_tokenize_str(text)],
    "blanks": lambda text: [word for word, _ in WhitespaceSplit().pre_tokenize_str(text)],
    "treebank": TREEBANK.findall,
}


@pytest.fixture(scope="module")
def abstracts() -> list[str]:
    raw = gzip.decompress(DEMO.read_bytes()).decode()
    found = re.findall(r"<AbstractText[^>]*>([^<&]+)<", raw)
    return [" ".join(text.split()) for text in found[:400] if text.isascii()]


@pytest.mark.parametrize("name", CUTTERS)
def test_the_cut_is_learnt_from_words_alone(name: str, abstracts: list[str]) -> None:
    cut, half = CUTTERS[name], len(abstracts) // 2
    assert half > 50
    given = [sentence(str(i), cut(text), ["O"] * len(cut(text)), i) for i, text in enumerate(abstracts[:half])]
    cutting = learn_cutting(given)
    assert cutting.apart
    wanted = [cut(text) for text in abstracts[half:]]
    found = [[text[a:b] for a, b in cutting.words(text)] for text in abstracts[half:]]
    words = {(i, w) for i, row in enumerate(wanted) for w in with_places(row)}
    same = len(words & {(i, w) for i, row in enumerate(found) for w in with_places(row)}) / len(words)
    assert same == 1 if name == "every mark" else same > 0.99, same
    assert learn_cutting([tag_words("x", text, (), 1) for text in abstracts[:half]]) == Cutting()


def with_places(words: list[str]) -> set[tuple[int, str]]:
    """Words, each with the letters and marks before it."""
    ends = [0]
    for word in words:
        ends.append(ends[-1] + len(word))
    return set(zip(ends, words, strict=False))


@given(st.text(max_size=60))
def test_running_text_is_cut_at_every_mark(text: str) -> None:
    marks = re.compile(r"[^\W_]+|[^\s\w]|_")
    assert Cutting().words(text) == [match.span() for match in marks.finditer(text)]


@given(st.text(alphabet="aB1-.(_ \n,é", max_size=30), st.sets(st.sampled_from("-.(_,")), st.booleans())
def test_no_cut_loses_or_doubles_a_letter(text: str, marks: set[str], apart: bool) -> None:
    kept = "".join(sorted(marks))
    found = Cutting(apart, kept, kept[:2], kept[1:]).words(text)
    assert "".join(text[a:b] for a, b in found) == "".join(text.split())
    assert all(a < b <= c for (a, b), (c, _) in pairwise(found))


def test_a_text_gives_the_ids_that_its_words_gave_in_training(tiny_tokenizer: Path) -> None:
    words = ["Heparin", ",", "aspirin", "(", "IL-2", ")", "protects", "the", "liver", "."]
    record = sentence("train:1", words, ["O"] * len(words), 1)
    task = Ner(tokenizer_folder.load(tiny_tokenizer), ("O", "B-X", "I-X"), 64, 8, cutting=learn_cutting([record]))
    served = task.unlabelled("a", ["Heparin, aspirin (IL-2) protects the liver."], 1)
    assert [served.text[a:b] for a, b in served.words] == words
    (trained,), (said,), (listed,) = task.examples([record, served, task.unlabelled("b", [words], 1)])
    assert trained.sequences == said.sequences == listed.sequences
    assert trained.positions == said.positions == listed.positions
    hf = HuggingFace.from_file(str(tiny_tokenizer / "tokenizer.json"))
    assert trained.sequences[0] == hf.encode(" " + " ".join(words)).ids


@pytest.fixture(scope="module")
def run(tiny_model: Path, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("words") / "run"
    argv = ["--model", str(tiny_model), "--task", "ner", "--data", str(toy), "--out", str(out), "--epochs", "3"]
    assert cli.run(["finetune", *argv, "--optim.lr", "3e-3", "--batch.size", "8"]) == 0
    return out


def by_word(words: list[tuple[int, int]], entities: list[dict[str, Any]]) -> list[tuple[int, int, str]]:
    starts, stops = [a for a, _ in words], [b for _, b in words]
    return [(starts.index(e["start"]), stops.index(e["stop"]), e["type"]) for e in entities]


def test_predictions_for_running_text_are_those_of_the_test_fold(run: Path, toy: Path, tmp_path: Path) -> None:
    records = read_iob(toy / "test.tsv", "test")
    texts, places = [], []
    for record in records:
        text, here = "", []
        for start, stop in record.words:
            word = record.text[start:stop]
            text += word if word == "," or not text else f" {word}"
            here.append((len(text) - len(word), len(text)))
        texts.append(text)
        places.append(here)
    rows = [
        {"text": text, "words": [record.text[a:b] for a, b in record.words]}
        for text, record in zip(texts, records, strict=True)
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    lines = [orjson.loads(line) for line in (run / "seed_1/predictions.jsonl").read_bytes().splitlines()]
    wanted = [by_word(list(r.words), line["entities"]) for r, line in zip(records, lines, strict=True)]
    for key in ("text", "words"):
        argv = [str(run), str(tmp_path / "in.jsonl"), "--text", key, "--out", str(tmp_path / key)]
        assert cli.run(["finetune", "predict", *argv]) == 0
        said = [orjson.loads(line)["entities"] for line in (tmp_path / key).read_bytes().splitlines()]
        words = places if key == "text" else [list(record.words) for record in records]
        assert [by_word(here, found) for here, found in zip(words, said, strict=True)] == wanted
    assert sum(map(len, wanted)) > 50


def test_words_are_refused_where_the_model_learnt_from_running_text(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(1)
    for fold in ("train", "devel", "test"):
        lines = []
        for i in range(12):
            text = f"Give {rng.choice(['aspirin', 'heparin'])}-{fold}-{i}, then rest."
            lines += [f"{fold}{i}|t|{text}", f"{fold}{i}|a|", f"{fold}{i}\t5\t12\t{text[5:12]}\tDrug", ""]
        (tmp_path / f"{fold}.txt").write_text("\n".join(lines))
    argv = ["--model", str(tiny_model), "--task", "ner", "--data", str(tmp_path), "--epochs", "1"]
    out = tmp_path.with_name("running")
    assert cli.run(["finetune", *argv, "--out", str(out)]) == 0
    (tmp_path / "in.jsonl").write_bytes(orjson.dumps({"text": ["Give", "aspirin"]}))
    assert cli.run(["finetune", "predict", str(out), str(tmp_path / "in.jsonl")]) == 2
    assert "learnt from running text" in capsys.readouterr().err
    (tmp_path / "empty.jsonl").write_bytes(orjson.dumps({"text": ["Give", ""]}))
    assert cli.run(["finetune", "predict", str(out), str(tmp_path / "empty.jsonl")]) == 2
    assert "no JSON object with text" in capsys.readouterr().err
