"""Every section of `docs/extending.md`, followed word for word in a copy of the package: the new thing does what it says."""

import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
import transformers
from safetensors.torch import load_file

from biomlm.convert.formats import native
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.load import load_model
from biomlm.core import checkpoint, cli
from biomlm.core.files import read_json, write_json
from biomlm.core.metrics import read_metrics
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM

ROOT = Path(__file__).parents[2]
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (ROOT / "docs/extending.md").read_text(), re.M | re.S))
BLOCK = r"^```python\n(.*?)^```"
LINE = r"Add this line to\s`([^`]+)`, in\sfront\sof\s`([^`]+)`[^`]*?(?:`[^`]*`[^`]*?)*?:\n\n" + BLOCK


def follow(section: str, folder: Path) -> Path:
    """Copy the package into a folder, and write into the copy what a section says: its files, and its lines in the registry."""
    package = folder / "src"
    shutil.copytree(ROOT / "src", package, ignore=shutil.ignore_patterns("__pycache__"))
    rooms = package / "biomlm"
    text = SECTIONS[section]
    lines = re.findall(LINE, text, re.M | re.S)
    files = [block for block in re.findall(BLOCK, text, re.M | re.S) if block.startswith("# ")]
    assert lines, f"{section}: there is no line to add"
    for block in files:
        target = rooms / block.splitlines()[0].removeprefix("# ")
        assert not target.exists(), f"{section}: {target} is there already"
        target.write_text(block, encoding="utf-8")
    for name, place, line in lines:
        registry = rooms / name
        before = registry.read_text(encoding="utf-8").splitlines()
        (number,) = (n for n, there in enumerate(before) if there.strip().startswith(place))
        indent = before[number][: -len(before[number].lstrip())]
        before[number:number] = [indent + added for added in line.splitlines()]
        registry.write_text("\n".join(before) + "\n", encoding="utf-8")
    return package


def run(package: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a verb of the copy in a process of its own."""
    code = "import sys; from biomlm.core import cli; sys.exit(cli.run(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(package), **environment},
        cwd=package,
        capture_output=True,
        text=True,
        check=False,
    )


SMALL = ["--model.size=tiny", "--batch.tokens=128", "--batch.max_length=32", "--seed=1"]


def test_a_model_shape(tiny_shards: Path, tmp_path: Path) -> None:
    """transformers' own class computes what was trained: the conversion's check compares the two."""
    package, out, hf = follow("A model shape", tmp_path), tmp_path / "run", tmp_path / "hf"
    words = ["pretrain", "--shards", str(tiny_shards), *SMALL, "--steps=2", "--model.shape=xlm-roberta"]
    done = run(package, *words, "--out", str(out))
    assert done.returncode == 0, done.stderr
    done = run(package, "convert", str(out), str(hf), "--to", "hf")
    assert done.returncode == 0, done.stderr
    assert read_json(hf / "conversion.json")["max_difference_logits"] <= 1e-5  # type: ignore[operator]
    model = transformers.AutoModelForMaskedLM.from_pretrained(hf, local_files_only=True)
    assert type(model).__name__ == "XLMRobertaForMaskedLM"


def test_a_checkpoint_format(tmp_path: Path) -> None:
    config, source, other, back = EncoderConfig(90, 32, 2, 2, 64, max_positions=40), *map(tmp_path.joinpath, "abc")
    source.mkdir()
    native.write(SourceCheckpoint("native", config, MaskedLM(config).state_dict(), source), source, torch.float32)
    package = follow("A checkpoint format", tmp_path)
    for words in ([source, other, "--to", "npz"], [other, back, "--to", "native"]):
        done = run(package, "convert", *map(str, words))
        assert done.returncode == 0, done.stderr
    before, after = load_model(source).model.state_dict(), load_model(back).model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert read_json(back / "conversion.json")["source_kind"] == "npz"


def test_an_optimiser(tiny_shards: Path, tmp_path: Path) -> None:
    """Gone on with after an interruption to the same bits, from the one tensor that it keeps of a parameter."""
    package, out = follow("An optimiser", tmp_path), tmp_path / "run"
    words = ["pretrain", "--shards", str(tiny_shards), *SMALL, "--steps=4", "--save_every=2", "--optim.name=lion"]
    done = run(package, *words, "--out", str(out))
    assert done.returncode == 0, done.stderr
    last = checkpoint.path_of(out, 4)
    whole = load_file(last / "optimizer.safetensors")
    assert {name.partition(".")[0] for name in whole} == {"exp_avg"}
    shutil.rmtree(last)
    write_json(out / "manifest.json", read_json(out / "manifest.json") | {"status": "running"})
    done = run(package, *words, "--out", str(out))
    assert done.returncode == 0, done.stderr
    again = load_file(last / "optimizer.safetensors")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    refused = run(package, *words, "--optim.eps=1e-3", "--out", str(tmp_path / "other"))
    assert refused.returncode == 2
    assert "--optim.eps has no effect here" in refused.stderr


TINY = ["--model.num_hidden_layers=1", "--model.hidden_size=16", "--model.num_attention_heads=2"]
SIZES = ["--batch.tokens=256", "--batch.max_length=32", "--steps=30", "--log_every=1", "--optim.lr=0.01"]


def test_an_objective(tiny_shards: Path, tmp_path: Path) -> None:
    package, out = follow("An objective", tmp_path), tmp_path / "run"
    done = run(
        package, "pretrain", "--shards", str(tiny_shards), "--out", str(out), *TINY, *SIZES, "--objective.length=2"
    )
    assert done.returncode == 0, done.stderr
    records = read_metrics(out)
    train = [record for record in records if record["split"] == "train"]
    for record in train:
        assert record["loss"] == pytest.approx(record["mlm"] + 2 * record["length"], rel=1e-5)
    assert train[-1]["length"] < train[0]["length"] / 4
    (valid,) = (record for record in records if record["split"] == "valid")
    assert 0 < valid["length"] < train[0]["length"] / 4

    saved = load_file(checkpoint.path_of(out, 30) / "objective.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in saved.items()} == {"size.weight": (1, 16), "size.bias": (1,)}
    assert load_model(out).extra_tensors.keys() == saved.keys(), "convert carries them along"


def test_a_part_of_distillations_loss(tiny_shards: Path, tmp_path: Path) -> None:
    package, teacher, out = follow("A part of distillation's loss", tmp_path), tmp_path / "teacher", tmp_path / "run"
    common = ["--shards", str(tiny_shards), *SIZES]
    wide = ["--model.num_hidden_layers=2", "--model.hidden_size=24", "--model.num_attention_heads=2"]
    assert cli.run(["pretrain", *common, *wide, "--out", str(teacher), "--steps=1"]) == 0
    weights = ["--loss.kl=0", "--loss.mlm=1", "--loss.hidden=0", "--loss.absolute=2..3"]
    done = run(package, "distill", *common, *TINY, "--teacher", str(teacher), "--out", str(out), *weights)
    assert done.returncode == 0, done.stderr
    train = [record for record in read_metrics(out) if record["split"] == "train"]
    for step, record in enumerate(train):
        assert record["loss"] == pytest.approx(record["mlm"] + (2 + step / 29) * record["absolute"], rel=1e-5)
    assert train[-1]["absolute"] < 0.7 * train[0]["absolute"]
    saved = load_file(checkpoint.path_of(out, 30) / "objective.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in saved.items()} == {
        "alignments.0.projections.1_2.weight": (24, 16)
    }
    assert not load_model(out).extra_tensors, "a projection is of no use without its teacher"


def test_a_launch_back_end(tmp_path: Path) -> None:
    """Stages run there, its option is known and reaches them, and it is refused elsewhere."""
    package, recipe = follow("A launch back end", tmp_path), tmp_path / "mine.yaml"
    (tmp_path / "one.txt").write_text("The heart, the lung and the liver of a patient.")
    recipe.write_text(
        f"stages:\n  - {{name: docs, verb: corpus build, args: {{text: ['{tmp_path}/one.txt'], out: '${{out}}/docs'}}}}\n"
    )
    words = ["launch", str(recipe), "--niceness", "7"]
    watch = tmp_path / "bin"
    watch.mkdir()
    (watch / "nice").write_text(f'#!/bin/sh\necho "$1 $2" >> {tmp_path}/called\nexec /usr/bin/env nice0 "$@"\n')
    (watch / "nice0").symlink_to(str(shutil.which("nice")))
    (watch / "nice").chmod(0o755)
    path = f"{watch}:{os.environ['PATH']}"
    done = run(package, *words, "--on", "nice", "--out", str(tmp_path / "out"), PATH=path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "called").read_text() == "-n 7\n"
    assert read_json(tmp_path / "out/docs/manifest.json")["status"] == "done"
    done = run(package, *words, "--out", str(tmp_path / "other"))
    assert done.returncode == 2
    assert "--niceness has no effect here: it needs --on nice" in done.stderr
    assert "--override" not in run(package, "launch", str(recipe), "--on", "nice", "--override", "--dry_run").stderr
    assert "from 1 to 19" in " ".join(run(package, "launch", "--help").stdout.split())


def test_a_corpus_source(tmp_path: Path) -> None:
    package, exports, docs = follow("A corpus source", tmp_path), tmp_path / "exports", tmp_path / "docs"
    exports.mkdir()
    record = "TY  - JOUR\nTI  - Aspirin in number {0}\nAB  - It protects the heart of patient {0}.\nKW  - platelets\nER  - \n\n"
    (exports / "one.ris").write_text("".join(record.format(number) for number in range(5)))
    done = run(package, "corpus", "build", "--ris", str(exports), "--keywords", "--out", str(docs))
    assert done.returncode == 0, done.stderr
    shards = [gzip.decompress(path.read_bytes()) for path in docs.glob("*/*.jsonl.gz")]
    documents: list[Any] = [orjson.loads(line) for shard in shards for line in shard.splitlines()]
    assert len(documents) == 5
    assert {document["metadata"]["source"] for document in documents} == {"ris"}
    assert all(document["text"].endswith("platelets") for document in documents)
    counts = orjson.loads((docs / "manifest.json").read_bytes())["counts"]["sources"]["ris"]
    assert counts["records"] == counts["kept"] == 5
    done = run(package, "corpus", "build", "--text", str(exports), "--keywords", "--out", str(tmp_path / "other"))
    assert done.returncode == 2
    assert "--keywords has no effect here: it needs --ris" in done.stderr


def test_a_fine_tuning_task(tiny_model: Path, tmp_path: Path) -> None:
    """Trained, predicted with and converted."""
    package, data, out = follow("A fine-tuning task", tmp_path), tmp_path / "data", tmp_path / "run"
    data.mkdir()
    for fold, count in (("train", 24), ("dev", 6), ("test", 6)):
        rows = [{"text": f"{'aspirin ' * (i % 3 + 1)}{fold} {i}", "label": i % 3 + 1} for i in range(count)]
        (data / f"{fold}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    words = ["--model", str(tiny_model), "--task", "grade", "--data", str(data), "--epochs", "1"]
    for command in (
        ["finetune", *words, "--out", str(out)],
        ["finetune", "predict", str(out), str(data / "test.jsonl"), "--out", str(tmp_path / "grades.jsonl")],
        ["convert", str(out), str(tmp_path / "hf"), "--to", "hf"],
    ):
        done = run(package, *command)
        assert done.returncode == 0, done.stderr
    lines: list[Any] = [orjson.loads(line) for line in (tmp_path / "grades.jsonl").read_bytes().splitlines()]
    assert len(lines) == 6
    assert all(isinstance(line["grade"], int) for line in lines)
    assert orjson.loads((out / "scores.json").read_bytes())["metric"] == "pearson"
    assert orjson.loads((tmp_path / "hf/config.json").read_bytes())["problem_type"] == "regression"
    done = run(package, "finetune", *words, "--crf", "--out", str(tmp_path / "other"))
    assert done.returncode == 2
    assert "--crf has no effect here: it needs --task ner or pico" in done.stderr
