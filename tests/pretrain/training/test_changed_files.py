"""Files that changed behind a run's back are noticed: the shards that it reads, the model that it left."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from biomlm.core import checkpoint, cli

Words = Callable[..., list[str]]
EVERY = ["--log_every", "1", "--save_every", "4"]


@pytest.fixture
def shards(tiny_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_shards, tmp_path / "shards"))


@pytest.fixture
def run(shards: Path, small_run: Words, tmp_path: Path) -> Path:
    """A run that was killed right before its end."""
    folder = tmp_path / "run"
    assert cli.run(small_run(shards, folder, 8, *EVERY)) == 0
    reopen(folder)
    return folder


def reopen(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"done"', '"running"'))


def permute(path: Path) -> None:
    """The first half of a file's tokens behind the second: the same tokens, sizes and counts."""
    tokens = np.fromfile(path, np.uint16)
    np.roll(tokens, len(tokens) // 2).tofile(path)


def test_permuted_shards_are_refused(
    shards: Path, run: Path, small_run: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = small_run(shards, run, 8, *EVERY)
    os.utime(shards / "train.bin")
    assert cli.run(argv) == 0, "a file that was only touched, or copied, is the same"
    reopen(run)
    permute(shards / "train.bin")
    capsys.readouterr()
    assert cli.run(argv) == 2
    assert "train.bin: its content or order is another than when this run began" in capsys.readouterr().err
    assert cli.run([*argv, "--override"]) == 0
    assert "--override goes on all the same" in capsys.readouterr().err
    new = small_run(shards, tmp_path / "new", 8, *EVERY)
    assert cli.run(new) == 2
    assert "train.bin: it is not what the manifest of the shards says" in capsys.readouterr().err
    assert cli.run([*new, "--override"]) == 0


@pytest.mark.parametrize("content", [b"", None], ids=["empty", "one bit"])
def test_a_finished_run_is_not_done_if_its_model_is_not_there(
    content: bytes | None, shards: Path, small_run: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, argv = tmp_path / "done", small_run(shards, tmp_path / "done", 8, *EVERY)
    assert cli.run(argv) == 0
    file = checkpoint.path_of(folder, 8) / "model.safetensors"
    right = file.read_bytes()
    file.write_bytes(right[:-1] + bytes([right[-1] ^ 1]) if content is None else content)
    capsys.readouterr()
    assert cli.run(argv) == 2
    assert "model.safetensors: it is not what the finished stage wrote" in capsys.readouterr().err
    assert cli.run(["convert", str(folder), str(tmp_path / "hf"), "--to", "hf"]) == 2
    assert "the last checkpoint of this finished run is gone or damaged" in capsys.readouterr().err
    assert cli.run([*argv, "--override"]) == 0
    assert file.read_bytes() == right


def test_the_same_bytes_elsewhere_are_the_same_shards(
    shards: Path, run: Path, small_run: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a refusal does not list the path, which does not matter."""
    moved = Path(shutil.move(shards, tmp_path / "elsewhere"))
    before = checkpoint.path_of(run, 8) / "model.safetensors"
    assert cli.run(small_run(moved, run, 8, *EVERY)) == 0
    assert before.exists()
    capsys.readouterr()
    assert cli.run(small_run(moved, run, 9, *EVERY)) == 2
    text = capsys.readouterr().err
    assert "the folder was made with another configuration: steps (8 then, 9 now)" in text
    assert "shards" not in text.partition("\n")[0]
    permute(moved / "train.bin")
    reopen(run)
    assert cli.run(small_run(moved, run, 8, *EVERY)) == 2
