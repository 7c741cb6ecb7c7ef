"""Texts to predict in every form, and entities out in every form: the same places in the same texts."""

import gzip
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from biomlm.core import cli
from biomlm.core.files import read_json
from biomlm.finetune.commands import predict as predicting
from biomlm.finetune.data.dropped import Dropped
from biomlm.finetune.data.iob_tags import Span
from biomlm.finetune.data.readers.brat import read_brat, write_brat
from biomlm.finetune.data.readers.iob import read_iob
from biomlm.finetune.data.readers.pubtator import read_pubtator, tag_words

TEXT = "aspirin protects\r\nthe\u00a0liver, heparin\u2009acid often\u3000insulin"
Predict = Callable[..., list[list[Span]]]


@pytest.fixture(scope="module")
def run(tiny_model: Path, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("served") / "run"
    argv = ["--model", str(tiny_model), "--task", "ner", "--data", str(toy), "--out", str(out), "--epochs", "3"]
    assert cli.run(["finetune", *argv, "--optim.lr", "3e-3", "--batch.size", "8"]) == 0
    return out


@pytest.fixture
def predict(run: Path, tmp_path: Path) -> Predict:
    """Entities of each text of a file."""

    def call(file: Path | str, *more: str) -> list[list[Span]]:
        out = tmp_path / f"said-{len(list(tmp_path.iterdir()))}.jsonl"
        assert cli.run(["finetune", "predict", str(run), str(file), "--out", str(out), *more]) == 0
        lines = [orjson.loads(line) for line in out.read_bytes().splitlines()]
        return [[Span(**entity) for entity in line["entities"]] for line in lines]

    return call


def words_of(text: str, spans: list[Span]) -> list[tuple[str, str]]:
    return [(text[start:stop], kind) for start, stop, kind in spans]


def test_the_test_fold_itself_is_said_as_in_training(run: Path, toy: Path, predict: Predict) -> None:
    trained = [orjson.loads(line) for line in (run / "seed_1/predictions.jsonl").read_bytes().splitlines()]
    assert predict(toy / "test.tsv") == [[Span(**e) for e in line["entities"]] for line in trained]
    assert sum(len(line["entities"]) for line in trained) > 50


def test_words_without_tags_and_with_crlf_and_a_mark(toy: Path, tmp_path: Path, predict: Predict) -> None:
    records = read_iob(toy / "test.tsv", "test")
    plain = "\n\n".join("\n".join(r.text[a:b] for a, b in r.words) for r in records)
    (tmp_path / "plain.conll").write_bytes(b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode())
    assert predict(tmp_path / "plain.conll") == predict(toy / "test.tsv")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_every_form_of_a_text_gives_the_same_places(
    mark: bytes, tmp_path: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = TEXT.replace("\r\n", " \t")
    forms = {
        "a.txt": f"{line}\r\n".encode(),
        "a.jsonl": orjson.dumps({"text": line}) + b"\r\n",
        "a.pubtator": f"7|t|aspirin\r\n7|a|{line.removeprefix('aspirin ')}\r\n7\t0\t7\taspirin\tOld\r\n".encode(),
    }
    said = []
    for name, content in forms.items():
        (tmp_path / name).write_bytes(mark + content)
        said += predict(tmp_path / name)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(mark + content)))
        said += predict("-", "--input", {"txt": "text"}.get(name[2:], name[2:]))
    (tmp_path / "brat").mkdir()
    (tmp_path / "brat" / "x.txt").write_bytes(mark + TEXT.encode())
    said += predict(tmp_path / "brat")
    assert all(spans == said[0] for spans in said), said
    assert [kind for _, _, kind in said[0]], "there are entities"
    for start, stop, _ in said[0]:
        assert line[start:stop] == line[start:stop].strip() == TEXT[start:stop]


def test_brat_in_is_brat_out_under_the_same_names(run: Path, tmp_path: Path, predict: Predict) -> None:
    (tmp_path / "notes").mkdir()
    for name in ("n 1", "ü.b"):
        (tmp_path / "notes" / f"{name}.txt").write_bytes(TEXT.encode())
        (tmp_path / "notes" / f"{name}.ann").write_bytes(b"T1\tOld 0 7\taspirin\n")
    argv = ["finetune", "predict", str(run), str(tmp_path / "notes"), "--to", "brat", "--out", str(tmp_path / "out")]
    assert cli.run(argv) == 0
    records = read_brat(tmp_path / "out", Dropped())
    assert [(record.id, record.text) for record in records] == [("n 1", TEXT), ("ü.b", TEXT)]
    assert [record.characters(record.spans) for record in records] == predict(tmp_path / "notes")


def test_pubtator_in_is_pubtator_out_with_its_title(run: Path, tmp_path: Path, predict: Predict) -> None:
    source = "5|t|\n5|a|aspirin often\n\n77|t|heparin acid\n77|a|the liver of aspirin\n\n"
    (tmp_path / "in.pubtator").write_text(source)
    argv = [str(run), str(tmp_path / "in.pubtator"), "--to", "pubtator", "--out", str(tmp_path / "out.txt")]
    assert cli.run(["finetune", "predict", *argv]) == 0
    before, after = (read_pubtator(tmp_path / name, Dropped()) for name in ("in.pubtator", "out.txt"))
    assert [(r.id, r.text) for r in before] == [(r.id, r.text) for r in after]
    assert [r.characters(r.spans) for r in after] == predict(tmp_path / "in.pubtator")


def test_a_mention_across_a_line_end_is_cut_for_brat_and_read_back(tmp_path: Path) -> None:
    text = "acute \r\n  renal failure\n\nand more\n"
    record = tag_words(
        "a", text, [Span(0, text.index("failure") + 7, "D"), Span(text.index("and"), len(text) - 1, "E")], 1
    )
    spans = record.characters(record.spans)
    write_brat(tmp_path, record, spans, "a")
    lines = (tmp_path / "a.ann").read_bytes().decode().splitlines()
    assert lines[0] == "T1\tD 0 5;10 23\tacute renal failure"
    for (
        line
    ) in lines:  # brat's own rule: no piece reaches over a line end, and the mention is the pieces joined by blanks
        kind_offsets, mention = line.split("\t")[1:]
        pieces = [text[int(a) : int(b)] for a, b in (p.split() for p in kind_offsets.split(" ", 1)[1].split(";"))]
        assert not any("\n" in piece for piece in pieces)
        assert " ".join(pieces) == mention
    (again,) = read_brat(tmp_path, Dropped())
    assert (again.text, again.characters(again.spans)) == (text, spans)


@pytest.mark.parametrize(
    ("name", "content", "more", "message"),
    [
        ("a.docx", "x", (), "--input"),
        ("a.txt", "12|t|title\n12|a|abstract\n", (), "looks like PubTator"),
        ("a.pubtator", "12|t|title\n13|a|abstract\n", (), "line 2): the abstract"),
        ("a.pubtator", "12|t|title\n", (), "line 1): the abstract"),
        ("a.pubtator", "a sentence\n", (), "line 1): a document begins"),
        ("a.txt", "ok\n\xff", (), "line 2): this is not UTF-8"),
    ],
)
def test_what_is_none_is_named(
    name: str, content: str, more: tuple[str, ...], message: str, run: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    assert cli.run(["finetune", "predict", str(run), str(tmp_path / name), *more]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_texts_is_none(run: Path, tmp_path: Path) -> None:
    assert cli.run(["finetune", "predict", str(run), str(tmp_path)]) == 2


def test_the_rule_by_which_words_are_cut_is_shown(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "cut at blanks and at every mark; each read with a blank in front"
    assert read_json(run / "scores.json")["words"] == rule
    (tmp_path / "a.txt").write_text("aspirin\n")
    argv = ["finetune", "predict", str(run), str(tmp_path / "a.txt"), "--out", str(tmp_path / "o")]
    assert cli.run(argv) == 0
    assert rule in " ".join(capsys.readouterr().out.split())


BOUND = 300 << 20  # bytes above a small file's
CODE = """
import resource, sys
from biomlm.core import cli
code = cli.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)
sys.exit(code)
"""


def peak(run: Path, file: Path) -> tuple[int, int, str]:
    """Exit code, bytes held at most, and what was said."""
    words = [
        "finetune",
        "predict",
        str(run),
        str(file),
        "--out",
        str(file.with_name("out.jsonl")),
        "--precision",
        "fp32",
    ]
    done = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True, check=False)
    return done.returncode, int(done.stdout.split()[-1]), done.stderr


@pytest.mark.parametrize("name", ["bomb.txt.gz", "bomb.jsonl.gz", "bomb.txt.xz"])
def test_a_small_file_that_unpacks_to_gigabytes_is_refused(run: Path, name: str, tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("the heart .\n")
    _, usual, _ = peak(run, tmp_path / "small.txt")
    (tmp_path / "out.jsonl").unlink()
    file = tmp_path / name
    if name.endswith(".gz"):
        with gzip.open(file, "wb", 1) as packed:
            for _ in range(700):
                packed.write(b"a" * (1 << 20))
    else:
        subprocess.run(f"head -c 700M /dev/zero | tr '\\\\0' a | xz -1 > '{file}'", shell=True, check=True)
    assert file.stat().st_size < 4 << 20
    code, most, said = peak(run, file)
    assert code == 2, said
    assert "line 1" in said
    assert most - usual < BOUND
    assert [path.name for path in tmp_path.glob("*out*")] == []


def test_chunks_are_bounded_by_texts_and_by_bytes_and_lose_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"word {'of a long ' * (i % 7)}heart {i} ." for i in range(40)]
    (tmp_path / "in.txt").write_text("\n\n".join(lines) + "\n")
    argv = ["finetune", "predict", str(run), str(tmp_path / "in.txt"), "--precision", "fp32"]
    assert cli.run([*argv, "--out", str(tmp_path / "whole.jsonl")]) == 0
    monkeypatch.setattr(predicting, "CHUNK", 7)
    monkeypatch.setattr(predicting, "LONGEST", 100)
    assert cli.run([*argv, "--out", str(tmp_path / "parts.jsonl")]) == 0
    rows = [orjson.loads(line) for line in (tmp_path / "parts.jsonl").read_bytes().splitlines()]
    assert [row["line"] for row in rows] == list(range(1, 80, 2))
    assert rows == [orjson.loads(line) for line in (tmp_path / "whole.jsonl").read_bytes().splitlines()]


def test_predictions_that_a_killed_command_left_are_swept(run: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("the heart .\n")
    (tmp_path / "thesis.tmp").write_text("another's")
    (tmp_path / ".out.jsonl.12.tmp").write_text("what a killed one left")
    os.utime(tmp_path / ".out.jsonl.12.tmp", (0, 0))
    words = ["finetune", "predict", str(run), str(tmp_path / "in.txt"), "--precision", "fp32"]
    assert cli.run([*words, "--out", str(tmp_path / "out.jsonl")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"in.txt", "thesis.tmp", "out.jsonl"}
