"""The demo comes to the documents, vocabulary, shards and held-out losses that it came to before the house was moved."""

import gzip
import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from biomlm.core import cli

ROOT = Path(__file__).parents[2]
RECORDED: dict[str, Any] = json.loads((ROOT / "tests" / "data" / "goldens" / "demo.json").read_text())
RUNS = ["teacher", "student", "alone"]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that has the demo's data where a clone has it."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def facts(folder: Path) -> dict[str, Any]:
    """What a stage's folder is known by: its manifest without the configuration's text, and its outputs' contents."""
    manifest = json.loads((folder / "manifest.json").read_text())
    known = {name: manifest[name] for name in ("stage", "status", "config_hash", "inputs", "counts")}
    return known | {"contents": {name: contents(folder / name) for name in manifest["outputs"]}}


def contents(file: Path) -> str:
    """SHA-256 of a file's bytes, of a compressed file's text: what is compressed may look different under another zlib."""
    raw = file.read_bytes()
    return hashlib.sha256(gzip.decompress(raw) if file.suffix == ".gz" else raw).hexdigest()


@pytest.mark.slow
def test_the_demos_documents_vocabulary_and_shards(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["launch", "demo", "--out", "runs/demo", "--dry_run"]) == 0
    commands = [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()]
    for name, command in zip(("corpus", "tokenizer", "shards"), commands, strict=False):
        assert cli.run(command) == 0
        assert facts(workplace / "runs/demo" / name) == RECORDED["demo"][name]


def test_a_part_of_the_demos_documents_vocabulary_and_shards(workplace: Path) -> None:
    for name, line in RECORDED["part"]["lines"].items():
        assert cli.run([*line.split(), "--out", f"part/{name}"]) == 0
        assert facts(workplace / "part" / name) == RECORDED["part"][name]


@pytest.mark.parametrize("run", RUNS)
def test_the_demos_held_out_losses(run: str) -> None:
    folder = ROOT / "runs" / "demo" / run
    if not (folder / "result.json").exists():
        pytest.skip("`make demo` has not been run here")
    result, manifest = (json.loads((folder / name).read_text()) for name in ("result.json", "manifest.json"))
    recorded = RECORDED["demo"][run]
    assert manifest["config_hash"] == recorded["config_hash"]
    assert batches(folder) == recorded["batches"]
    assert first(folder) == pytest.approx(recorded["first"], rel=1e-3)
    # sums of floats differ from one processor to another, and over a thousand steps the losses by some hundredths with them
    assert result["valid"]["loss"] == pytest.approx(recorded["valid"]["loss"], abs=0.05)
    assert result["valid"]["accuracy"] == pytest.approx(recorded["valid"]["accuracy"], abs=0.01)
    assert result["unigram_entropy"] == recorded["unigram_entropy"]


def first(run: Path) -> dict[str, float]:
    """The losses of the first records."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {str(record["step"]): record["loss"] for record in records[:4]}


def batches(run: Path) -> str:
    """SHA-256 of all that the run read, as its records name it."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seen = [(record["step"], record["batches"]) for record in records if record["split"] == "train"]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()
