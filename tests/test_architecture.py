"""The rooms' import rule (docs/design.md), read from the syntax trees, and a few habits that the whole house keeps."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT = {
    "core": set(),
    "inputs": {"core"},
    "corpus": {"core", "inputs"},
    "tokenizer": {"core", "inputs", "corpus"},
    "model": {"core"},
    "convert": {"core", "inputs", "tokenizer", "model"},
    "pretrain": {"core", "tokenizer", "model", "convert"},
    "distill": {"core", "tokenizer", "model", "convert", "pretrain"},
    "finetune": {"core", "inputs", "tokenizer", "model", "convert"},
    "launch": {"core"},
}
FILES = [path for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))]
UNPICKLERS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_every_room_is_there_and_nothing_else_is_packaged() -> None:
    assert {path.parent.name for path in ROOT.glob("*/py.typed")} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "biomlm":
            assert parts[1] in MAY_IMPORT[room] | {room}, f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_pickle_is_executed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    used = {name.split(".")[0] for name in imports(path)}
    if path.relative_to(ROOT).as_posix() != "convert/safe_load/unpickle.py":
        assert not used & UNPICKLERS, f"{path} imports {used & UNPICKLERS}"
        assert "torch.load" not in text, f"{path}: only convert/safe_load/unpickle.py reads foreign checkpoints"
    assert "weights_only=False" not in text
    assert "allow_pickle=True" not in text


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450
