"""No text of a note gets out: a canary is driven through the failing paths of every room, and all that they print and write is searched.

Every kind of path is a table, so that another case is one line. What is searched: standard output, standard error and every file, gzip
unpacked, except the files that are there to hold text (`HOLD_TEXT`).
"""

import gzip
import io
import json
import lzma
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import yaml
from lxml import etree

from biomlm.core import cli
from biomlm.core.errors import DataError
from biomlm.corpus.readers.notes import NotesReader

CANARY = "ZEBRACANARY77"
NOTE = f"""LASTNAME FIRSTNAME {CANARY}
Chief Complaint:
Chest pain, as {CANARY} said.

MR {CANARY} DOE:
was here with {CANARY}'s family, and {CANARY} went home.
"""
QUOTED = '"' + NOTE.replace('"', '""') + '"'
HEADER = "row_id,subject_id,category,iserror,text\n"
ROWS = "".join(f"{i},{1000 + i},Nursing,,{QUOTED}\n" for i in range(3))
HOLD_TEXT = (
    "train/*.jsonl.gz",
    "valid/*.jsonl.gz",
    "dropped/*.jsonl.gz",
    "parts/*/*.jsonl.gz",
    "predicted*",
    "examples.txt",
)

Search = Callable[..., int]


def held(path: Path) -> bytes:
    """A file's content, unpacked."""
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


@pytest.fixture
def search(capfd: pytest.CaptureFixture[str]) -> Search:
    """Run a command with `-v` and look for the canary in what it prints and in what stands under a folder behind it; its exit code."""

    def run(argv: list[object], out: Path | None = None, but: tuple[str, ...] = ()) -> int:
        capfd.readouterr()
        code = cli.run(["-v", *map(str, argv)])
        said = "".join(capfd.readouterr())
        assert CANARY.lower() not in said.lower(), said
        for path in out.rglob("*") if out is not None else ():
            if path.is_file() and not any(path.match(pattern) for pattern in (*HOLD_TEXT, *but)):
                assert CANARY.lower().encode() not in held(path).lower(), path
        return code

    return run


# corpus: name of the file → its option, its bytes, more options. Each fails, or drops records, for another reason.

XML = f"<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID>1</PMID><Article><ArticleTitle>{CANARY}"
END = "</ArticleTitle></Article></MedlineCitation></PubmedArticle></PubmedArticleSet>"
JATS = f"<article><front><article-meta><title-group><article-title>{CANARY}"
WRONG = ["--note_columns", '{"text": "note"}']


def tar(*members: tuple[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return raw.getvalue()


CORPUS: dict[str, tuple[str, bytes, list[str]]] = {
    "headerless.csv": ("notes", ROWS.encode(), []),
    "header_is_the_note.csv": ("notes", (QUOTED + ",1,2\n" + HEADER + ROWS).encode(), []),
    "quote_in_header.csv": ("notes", ('row_id,sub"ject_id,category,iserror,text\n' + ROWS).encode(), []),
    "quote_in_row.csv": ("notes", (HEADER + f'7,1,N,,"a {CANARY} "b" c"\n' + ROWS + f'8,1,N,,"{CANARY}\n').encode(), []),
    "wrong_columns.csv": ("notes", (HEADER + ROWS).encode(), WRONG),
    "too_many_fields.csv": ("notes", (HEADER + f"{CANARY},1,2,3,4,5,{CANARY}\n" + ROWS).encode(), []),
    "latin1.csv": ("notes", (HEADER + ROWS.replace("pain", "p\xe4in")).encode("latin-1"), []),
    "utf16.csv": ("notes", (HEADER + ROWS).encode("utf-16"), []),
    "nul.csv": ("notes", (HEADER + ROWS.replace("pain", "p\0in")).encode(), []),
    "nothing_left.csv": ("notes", (HEADER + ROWS).encode(), ["--min_words", "1000"]),
    "iserror.csv": ("notes", (HEADER + ROWS.replace("Nursing,,", f"Nursing,{CANARY},")).encode(), []),
    "date.csv": ("notes", (HEADER.replace("category", "chartdate") + ROWS.replace("Nursing", CANARY)).encode(), []),
    "sections.csv": ("notes", (HEADER + ROWS).encode(), []),
    "not_json.jsonl": ("notes", NOTE.encode() * 2, []),
    "list.jsonl": ("notes", orjson.dumps([NOTE]) + b"\n", []),
    "keys.jsonl": ("notes", orjson.dumps({NOTE: 1}) + b"\n", []),
    "nested.jsonl": ("notes", orjson.dumps({"text": {"note": NOTE}, "row_id": [NOTE]}) + b"\n", []),
    "surrogate.jsonl": ("notes", b'{"text": "' + CANARY.encode() + b' \\ud800"}\n', []),
    "no.parquet": ("notes", NOTE.encode(), []),
    "plain.csv.gz": ("notes", (HEADER + ROWS).encode(), []),
    "cut.csv.gz": ("notes", gzip.compress((HEADER + ROWS * 50).encode())[:-30], []),
    "plain.csv.xz": ("notes", (HEADER + ROWS).encode(), []),
    "cut.csv.xz": ("notes", lzma.compress((HEADER + ROWS * 50).encode())[:-30], []),
    "latin1.txt": ("text", b"\xff\xfe\x00" + NOTE.encode(), []),
    "nothing_left.txt": ("text", NOTE.encode(), ["--min_words", "1000"]),
    "no_text.csv": ("text", ROWS.encode(), []),
    "no_text.jsonl": ("text", orjson.dumps({NOTE: NOTE}) + b"\n", []),
    "year.jsonl": ("text", orjson.dumps({"text": NOTE, "year": NOTE, "date": NOTE, "license": NOTE, "pmid": NOTE}) + b"\n", []),
    "note.xml": ("pubmed", NOTE.encode(), []),
    "open.xml": ("pubmed", XML.encode(), []),
    "ill_formed.xml": ("pubmed", (XML + f"</{CANARY}></PubmedArticle></PubmedArticleSet>").encode(), []),
    "entity.xml": ("pubmed", (f'<!DOCTYPE a [<!ENTITY {CANARY} "{CANARY}">]>' + XML + f"&{CANARY};{END}").encode(), []),
    "encoding.xml": ("pubmed", f'<?xml version="1.0" encoding="{CANARY}"?>'.encode() + XML.encode() + b"\xff" + END.encode(), []),
    "note.nbib": ("pubmed", NOTE.encode(), []),
    "pmid.nbib": ("pubmed", f"PMID- {CANARY}\nTI  - {CANARY}\n\nPMID- 1\n{CANARY}\n".encode(), []),
    "note.nxml": ("pmc", NOTE.encode(), []),
    "open.nxml": ("pmc", JATS.encode(), []),
    "ill_formed.nxml": ("pmc", (JATS + f"</{CANARY}></article>").encode(), []),
    "note.tar": ("pmc", NOTE.encode() * 100, []),
    "damaged.tar.gz": ("pmc", gzip.compress(tar(("a.nxml", JATS.encode()), ("b.nxml", JATS.encode())))[:-40], []),
    "members.tar": ("pmc", tar(("a.nxml", JATS.encode() * 3), ("b.nxml", NOTE.encode())), []),
}  # fmt: skip


@pytest.mark.parametrize("name", CORPUS)
def test_corpus(name: str, tmp_path: Path, search: Search) -> None:
    option, data, more = CORPUS[name]
    raw, out = tmp_path / name, tmp_path / "out"
    raw.write_bytes(data)
    code = search(["corpus", "build", f"--{option}", raw, "--out", out, *more], out)
    assert code in (0, 2)
    if code == 0:
        assert search(["corpus", "stats", out], out) == 0
        assert search(["corpus", "build", f"--{option}", raw, "--out", out, "--min_words", 2], out) == 2


# files that are no data but are read: a note in the place of each


def test_a_note_in_the_place_of_another_file(tmp_path: Path, search: Search) -> None:
    note, table, out = tmp_path / "note.txt", tmp_path / "N.csv", tmp_path / "out"
    note.write_text(NOTE)
    note.chmod(0o600)
    table.write_text(HEADER + ROWS)
    for argv in (
        ["corpus", "build", "--text", note, "--select.decontaminate", note],
        ["corpus", "build", "--text", note, "--select.decontaminate", table],
        ["corpus", "stats", note],
        ["tokenizer", "train", "--docs", note],
        ["tokenizer", "encode", "--docs", note, "--tokenizer", note],
        ["pretrain", "--shards", note],
        ["pretrain", "--shards", note, "--init", note],
        ["distill", "--shards", note, "--teacher", note],
        ["convert", note],
        ["convert", "check", note, note],
        ["convert", "fill", note, "--sentences", "A <mask>."],
        ["finetune", "--model", note, "--task", "ner", "--data", note],
        ["finetune", "predict", note, note],
        ["launch", note],
        ["launch", "plan", note],
        ["report", note],
    ):
        more = [] if argv[1] in ("stats", "check", "plan") else ["--out", out]
        if argv[:2] == ["convert", note]:
            more = [out, "--to", "hf"]
        shutil.rmtree(out, ignore_errors=True)
        assert search([*argv, *more], out) in (0, 2), argv


# exceptions inside tasks: what a reader of notes raises with the note in its message, in this process, in two, and on SLURM


def raised(error: BaseException) -> None:
    raise error


def chained(text: str) -> None:
    try:
        int(text)
    except ValueError:
        raise RuntimeError("9") from None


FAULTS: dict[str, Callable[[str], object]] = {
    "key": lambda text: {}[text],
    "value": int,
    "unicode": lambda text: (text.encode() + b"\xff").decode(),
    "json": json.loads,
    "yaml": lambda text: yaml.safe_load(f"{text}: [{text}"),
    "xml": lambda text: etree.fromstring(f"<{text}>"),
    "date": lambda text: time.strptime(text, "%Y"),
    "type": lambda text: int(**{text: 1}),
    "file": lambda text: Path(text * 9).read_bytes(),
    "user": lambda text: raised(DataError("it is damaged", remedy="Mend it.")),
    "chain": chained,
}
PATCH = """
import os
from biomlm.core.errors import DataError
from biomlm.corpus.readers.notes import NotesReader
def fault(self, row, file, position):
    text = row["text"]
    FAULT
NotesReader._note = fault
"""


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "N.csv"
    path.write_text(HEADER + ROWS)
    return path


@pytest.mark.parametrize("fault", FAULTS)
def test_an_exception_in_a_task(
    fault: str, notes: Path, tmp_path: Path, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NotesReader, "_note", lambda self, row, file, position: FAULTS[fault](row["text"]))
    out = tmp_path / "out"
    assert search(["corpus", "build", "--notes", notes, "--out", out], out) in (1, 2)


@pytest.mark.parametrize(
    "fault",
    ["int(text)", "raise DataError('damaged', remedy='Mend it.') from KeyError(text)", "os.kill(os.getpid(), 9)"],
)
@pytest.mark.parametrize("where", ["workers", "slurm"])
def test_an_exception_in_a_task_of_another_process(
    fault: str, where: str, notes: Path, tmp_path: Path, search: Search, monkeypatch: pytest.MonkeyPatch, slurm: Path
) -> None:
    """The patch goes into every Python that is started; SLURM's stand-in keeps the logs."""
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(PATCH.replace("FAULT", fault))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "patch"), *sys.path]))
    more = ["--workers", "2"] if where == "workers" else ["--where.executor", "slurm", "--where.partition", "any"]
    out = tmp_path / "out"
    assert search(["corpus", "build", "--notes", notes, "--out", out, *more], out) in (1, 2)
    logs = [path for path in slurm.rglob("*") if path.is_file()]
    assert len(logs) > 3 or where == "workers"
    for path in logs:
        assert CANARY.encode() not in path.read_bytes(), path


# every file of every folder that passes between rooms, replaced by a note, by JSON that holds one, and by gzip of both

SPOILT = {
    "note": NOTE.encode(),
    "object": orjson.dumps({NOTE: NOTE, CANARY: CANARY, "id": NOTE, "text": NOTE, "metadata": NOTE}),
    "lists": orjson.dumps([[NOTE], NOTE]),
}


@pytest.fixture(scope="module")
def folders(
    tiny_docs: Path, tiny_tokenizer: Path, tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A folder of every kind: documents, tokenizer, shards, a run, its Hugging Face and fairseq folders, a fine-tuned run."""
    made = tmp_path_factory.mktemp("folders")
    small = [
        "--model.num_hidden_layers",
        "1",
        "--model.hidden_size",
        "16",
        "--model.num_attention_heads",
        "2",
        "--batch.max_length",
        "32",
    ]
    train = ["--batch.tokens", "128", "--steps", "1", "--precision", "fp32"]
    assert cli.run(["pretrain", "--shards", str(tiny_shards), *small, *train, "--out", str(made / "run")]) == 0
    for kind in ("hf", "fairseq"):
        assert cli.run(["convert", str(made / "run"), str(made / kind), "--to", kind]) == 0
    (made / "data").mkdir()
    for fold in ("train", "devel", "test"):
        lines = "".join(f"the\tO\n{fold}{i}\tB-Drug\nheart\tO\n\n" for i in range(4))
        (made / "data" / f"{fold}.tsv").write_text(lines)
    tune = ["--task", "ner", "--data", str(made / "data"), "--epochs", "1", "--out", str(made / "tuned")]
    assert cli.run(["finetune", "--model", str(made / "hf"), *tune]) == 0
    return {
        "docs": tiny_docs, "tokenizer": tiny_tokenizer, "shards": tiny_shards,
        **{name: made / name for name in ("run", "hf", "fairseq", "data", "tuned")},
    }  # fmt: skip


READ_BY: dict[str, list[str]] = {
    "docs": [
        "corpus stats {}",
        "corpus show {} --sample 1",
        "tokenizer train --docs {} --vocab_size 290 --out OUT",
        "tokenizer encode --docs {} --tokenizer {tokenizer} --out OUT",
        "tokenizer compare {tokenizer} --docs {}",
    ],
    "tokenizer": [
        "tokenizer encode --docs {docs} --tokenizer {} --out OUT",
        "tokenizer compare {} --docs {docs}",
    ],
    "shards": ["pretrain --shards {} --model.size tiny --steps 0 --out OUT"],
    "run": [
        "convert {} OUT --to hf",
        "report {} --out OUT/page.html",
        "pretrain average {} --out OUT",
        "distill --shards {shards} --teacher {} --model.size tiny --steps 0 --out OUT",
    ],
    "hf": [
        "convert {} OUT --to native",
        "convert fill {} --sentences A_<mask>.",
        "finetune --model {} --task ner --data {data} --epochs 0 --out OUT",
    ],
    "fairseq": ["convert {} OUT --to native"],
    "data": ["finetune --model {hf} --task ner --data {} --epochs 1 --out OUT"],
    "tuned": [
        "finetune predict {} {texts} --out OUT/predicted.jsonl",
        "finetune compare {}",
        "report {} --out OUT/page.html",
    ],
}


@pytest.mark.parametrize("kind", READ_BY)
def test_every_file_of_a_folder_replaced_by_a_note(
    kind: str, folders: dict[str, Path], tmp_path: Path, search: Search
) -> None:
    source, out = folders[kind], tmp_path / "out"
    texts = tmp_path / "texts.txt"
    texts.write_text("A heart.\n")
    leaks: list[str] = []
    for path in sorted(source.rglob("*")):
        if not path.is_file() or path.name in (".lock", "report.html") or "tensorboard" in path.parts:
            continue
        for name, data in SPOILT.items():
            folder = tmp_path / "spoilt"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source, folder)
            place = folder / path.relative_to(source)
            place.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
            for command in READ_BY[kind]:
                shutil.rmtree(out, ignore_errors=True)
                words = command.replace("OUT", str(out)).format(folder, **folders, texts=texts).split()
                try:
                    search(words, out, but=(path.name, "README.md"))  # copied, or a model's card: no messages
                except AssertionError as error:
                    leaks.append(f"{path.relative_to(source)} as {name}, {command}: {str(error)[-300:]}")
    assert not leaks, "\n".join(leaks)


# fine-tuning and prediction: malformed records, each with the note where it is malformed

TAGGED = f"the\tO\n{CANARY}\tB-Drug\n\n"
LABELLED = f"{CANARY}\tyes\n"
COLUMNS = ["--columns.text", "text", "--columns.label", "label"]
FINETUNE: dict[str, tuple[str, str, bytes, list[str]]] = {
    "one_column.tsv": ("ner", ".tsv", f"{TAGGED}{CANARY}\n".encode(), []),
    "three_columns.tsv": ("ner", ".tsv", f"{TAGGED}the\t{CANARY}\tO\n".encode(), []),
    "tag.tsv": ("ner", ".tsv", f"{TAGGED}the\t{CANARY}\n".encode(), []),
    "stray.tsv": ("ner", ".tsv", f"{TAGGED}{CANARY}\tI-Drug\nx\tB-Drug\nx\tI-Gene\n".encode(), []),
    "latin1.tsv": ("ner", ".tsv", TAGGED.encode() + b"\xe4\tO\n", []),
    "shared.tsv": ("ner", ".tsv", TAGGED.encode() * 5, []),
    "note.tsv": ("ner", ".tsv", NOTE.encode(), []),
    "quote.csv": ("classification", ".csv", f'text,label\n"{CANARY} "x,y\n'.encode(), COLUMNS),
    "headerless.csv": ("classification", ".csv", f"{CANARY},{CANARY} x\n{CANARY},y\n".encode(), COLUMNS),
    "fields.tsv": ("classification", ".tsv", f"text\tlabel\n{CANARY}\ty\t{CANARY}\n".encode(), COLUMNS),
    "label_is_text.jsonl": ("classification", ".jsonl", orjson.dumps({"text": NOTE}) + b"\n", ["--columns.label", "text"]),
    "json.jsonl": ("classification", ".jsonl", NOTE.encode(), COLUMNS),
    "nested.jsonl": ("classification", ".jsonl", orjson.dumps({"text": [NOTE], "label": {NOTE: 1}}) + b"\n", COLUMNS),
    "number.jsonl": ("similarity", ".jsonl", orjson.dumps({"text": NOTE, "label": NOTE}) + b"\n", COLUMNS),
    "choice.jsonl": ("choice", ".jsonl", orjson.dumps({"text": NOTE, "label": NOTE, "c": [NOTE]}), [*COLUMNS, "--columns.choices", "c"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FINETUNE)
def test_finetune(name: str, folders: dict[str, Path], tmp_path: Path, search: Search) -> None:
    task, ending, data, more = FINETUNE[name]
    for fold in ("train", "devel", "test"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{fold}{ending}").write_bytes(data)
    out = tmp_path / "out"
    argv = [
        "finetune",
        "--model",
        folders["hf"],
        "--task",
        task,
        "--data",
        tmp_path / "data",
        "--epochs",
        1,
        "--out",
        out,
    ]
    assert search([*argv, *more], out) == 2


PREDICT = {
    "note.jsonl": NOTE.encode(),
    "keys.jsonl": orjson.dumps({NOTE: NOTE}) + b"\n",
    "number.jsonl": orjson.dumps({"text": {"note": NOTE}}) + b"\n",
    "latin1.txt": NOTE.encode() + b"\xe4\n",
    "plain.txt.gz": NOTE.encode(),
    "cut.txt.gz": gzip.compress(NOTE.encode() * 99)[:-9],
    "note.csv": NOTE.encode(),
}


@pytest.mark.parametrize("name", PREDICT)
def test_predict(name: str, folders: dict[str, Path], tmp_path: Path, search: Search) -> None:
    file, out = tmp_path / name, tmp_path / "out"
    file.write_bytes(PREDICT[name])
    assert search(["finetune", "predict", folders["tuned"], file, "--out", out / "predicted.jsonl"], out) == 2


def test_a_stage_that_fails_in_a_launch(notes: Path, tmp_path: Path, search: Search) -> None:
    """What the stage says is kept in a log, and shown; the report and the plan are made of what is left."""
    (tmp_path / "headerless.csv").write_text(ROWS)
    (tmp_path / "salt").write_text("biolm")
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    args = f"{{notes: [{tmp_path / 'headerless.csv'}], salt_file: {tmp_path / 'salt'}, out: '${{out}}/docs'}}"
    recipe.write_text(f"description: A note.\nstages:\n  - {{name: corpus, verb: corpus build, args: {args}}}\n")
    assert search(["launch", "plan", recipe], out) == 0
    assert search(["launch", recipe, "--out", out], out) not in (0, 1)
    assert "no column `text` among the 5 columns" in (out / "logs" / "corpus.log").read_text()
    search(["report", out, "--out", tmp_path / "pages" / "page.html"], tmp_path / "pages")
    assert search(["doctor"]) in (0, 2)
