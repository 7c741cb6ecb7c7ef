"""`docs/extending.md` followed word for word: each section's files and lines, in a copy of the tree, and its commands."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import torch
import transformers
from safetensors.torch import load_file

from biomlm.convert.formats import native
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.M | re.S)
# runs each command line of its arguments in one process, which imports torch once
RUN = "import shlex, sys; from biomlm.core import cli; sys.exit(max(cli.run(shlex.split(line)[1:]) for line in sys.argv[1:]))"


def section(title: str) -> list[tuple[str, str]]:
    """The blocks of a section: language and text."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    return BLOCK.findall(text)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the rooms, linked as they are here."""
    copy = tmp_path / "tree"
    for room in (ROOT / "src" / "biomlm").iterdir():
        if room.is_symlink():
            shutil.copytree(ROOT / room.name, copy / room.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(
        ROOT / "src", copy / "src", symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    return copy


def follow(title: str, tree: Path) -> list[str]:
    """Do what a section says to the tree; return its commands."""
    commands: list[str] = []
    for language, block in section(title):
        if language == "console":
            commands += [line.removeprefix("$ ") for line in block.splitlines()]
            continue
        first, _, text = block.partition("\n")
        name, _, into = first.removeprefix("# ").partition(", in ")
        if into:
            insert(tree / name, into, text)
        else:
            assert not (tree / name).exists(), f"{name} is there already"
            (tree / name).write_text(text, encoding="utf-8")
    return commands


def insert(path: Path, table: str, lines: str) -> None:
    """Put lines at the end of a module's list or mapping."""
    source = path.read_text(encoding="utf-8")
    nodes = [n for n in ast.parse(source).body if isinstance(n, (ast.Assign, ast.AnnAssign))]
    (node,) = (n for n in nodes if re.match(rf"{table}\b", ast.unparse(n)))
    rows = source.splitlines(keepends=True)
    rows.insert(int(node.end_lineno or 0) - 1, lines)
    path.write_text("".join(rows), encoding="utf-8")


def run(tree: Path, *commands: str, cwd: Path, code: int = 0) -> str:
    """Run command lines by the tree's own code; what they said to standard error."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *commands], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stderr


def test_a_model_shape(tree: Path, tiny_shards: Path, tmp_path: Path) -> None:
    """transformers' own class computes what was trained: the conversion's check compares the two."""
    (tmp_path / "SHARDS").symlink_to(tiny_shards)
    run(tree, *follow("A model shape", tree), cwd=tmp_path)
    record = orjson.loads((tmp_path / "HF/conversion.json").read_bytes())
    assert record["max_difference_logits"] <= 1e-5
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "HF", local_files_only=True)
    assert type(model).__name__ == "XLMRobertaForMaskedLM"
    names = {path.relative_to(tree).as_posix() for path in tree.rglob("*.py") if "xlm-roberta" in path.read_text()}
    assert names == {"model/shapes.py", "convert/names/hf_architectures.py"}


def test_a_checkpoint_format(tree: Path, tmp_path: Path) -> None:
    config, model = EncoderConfig(90, 32, 2, 2, 64, max_positions=40), tmp_path / "MODEL"
    model.mkdir()
    native.write(SourceCheckpoint("native", config, MaskedLM(config).state_dict(), model), model, torch.float32)
    run(tree, *follow("A checkpoint format", tree), cwd=tmp_path)
    before, after = (load_file(tmp_path / name / "checkpoints/step_0/model.safetensors") for name in ("MODEL", "BACK"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert orjson.loads((tmp_path / "BACK/conversion.json").read_bytes())["source_kind"] == "npz"


def test_an_optimiser(tree: Path, tiny_shards: Path, tmp_path: Path) -> None:
    """Gone on with after an interruption to the same bits, from the one tensor that it keeps of a parameter."""
    (tmp_path / "SHARDS").symlink_to(tiny_shards)
    (whole,) = follow("An optimiser", tree)
    part = whole.replace("--out RUN", "--save_every 2 --out CUT")
    run(tree, whole, part, cwd=tmp_path)
    shutil.rmtree(tmp_path / "CUT/checkpoints/step_4")
    record = tmp_path / "CUT/manifest.json"
    record.write_bytes(orjson.dumps({**orjson.loads(record.read_bytes()), "status": "running"}))
    run(tree, part, cwd=tmp_path)
    one, two = (load_file(tmp_path / name / "checkpoints/step_4/optimizer.safetensors") for name in ("RUN", "CUT"))
    assert {name.partition(".")[0] for name in one} == {"exp_avg"}
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    refused = whole.replace("--out RUN", "--optim.eps 1e-3 --out EPS")
    assert "optim.eps has no effect here" in run(tree, refused, cwd=tmp_path, code=2)
