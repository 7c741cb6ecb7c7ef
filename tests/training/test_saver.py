"""Saving beside the training: what is written is what was there when it was asked for, errors arrive, ranks' rows come together."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from biomlm.core import checkpoint
from biomlm.core.checkpoint import Checkpoint
from biomlm.core.files import sweep
from biomlm.training.saver import Saver


def made(step: int, value: float, rows: int = 4) -> Checkpoint:
    return Checkpoint(step, {"model": {"weight": torch.full((rows, 3), value)}, "objective": {}}, {"tokens": step})


def test_what_changes_afterwards_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, plain = threading.Event(), checkpoint.save

    def slow(*args: Any) -> Path:
        go.wait(10)
        return plain(*args)

    monkeypatch.setattr(checkpoint, "save", slow)
    with Saver(tmp_path, 2, 0) as saver:
        one = made(1, 1.0)
        saver.save(one)
        one.tensors["model"]["weight"].fill_(9)
        assert not checkpoint.steps(tmp_path), "the loop goes on while nothing is written yet"
        go.set()
        saver.save(made(2, 2.0), wait=True)
    assert checkpoint.load(checkpoint.path_of(tmp_path, 1)).tensors["model"]["weight"].unique().tolist() == [1.0]
    assert checkpoint.load(checkpoint.path_of(tmp_path, 2)).tensors["model"]["weight"].unique().tolist() == [2.0]
    assert saver.stalled > 0


def test_a_gpus_tensors_are_copied_into_page_locked_memory_without_waiting_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its wiring, without a GPU: what is asked of torch, and that the device is waited for once, behind all copies."""
    asked = list[Any]()

    class OnGpu:
        def __init__(self, values: torch.Tensor):
            self.values, self.shape, self.dtype, self.device = (
                values,
                values.shape,
                values.dtype,
                torch.device("cuda:0"),
            )

        def detach(self) -> torch.Tensor:
            asked.append("copy")
            return self.values

    plain = torch.empty

    def empty(*shape: Any, pin_memory: bool, **how: Any) -> torch.Tensor:
        asked.append(pin_memory)
        return plain(*shape, **how)

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.cuda, "synchronize", asked.append)
    saver = Saver(tmp_path, 2, 0)
    copied = saver._copy({"model": {name: OnGpu(torch.ones(2)) for name in "ab"}})  # type: ignore[dict-item]
    assert asked == [True, "copy", True, "copy", torch.device("cuda:0")]
    assert torch.equal(copied["model"]["b"], torch.ones(2))


def test_an_error_reaches_the_loop_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    saver = Saver(tmp_path, 2, 0)
    saver.save(made(1, 1.0))
    with pytest.raises(OSError, match="No space left"):
        saver.finish()
    saver.check()


def test_the_last_ones_and_every_so_many_steps_are_kept(tmp_path: Path) -> None:
    with Saver(tmp_path, 2, 4) as saver:
        for step in range(1, 11):
            saver.save(made(step, step), wait=True)
    assert checkpoint.steps(tmp_path) == [4, 8, 9, 10]


def test_rows_of_several_ranks_are_one_checkpoint(tmp_path: Path) -> None:
    whole = torch.randn(7, 3)
    savers = [Saver(tmp_path, 2, 0, rank=rank, ranks=3, token="word", patience=10) for rank in range(3)]
    for rank, saver in reversed(list(enumerate(savers))):
        rows = {"weight": whole.chunk(3)[rank]} | ({"count": torch.tensor(5.0)} if rank == 0 else {})
        saver.save(Checkpoint(3, {"model": rows}, {"tokens": 1}))
    for saver in savers:
        saver.finish()
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert torch.equal(found.tensors["model"]["weight"], whole)
    assert found.tensors["model"]["count"] == 5
    assert len(list(checkpoint.path_of(tmp_path, 3).iterdir())) == 4, "three parts and their list"
    damaged = next(checkpoint.path_of(tmp_path, 3).glob("*-00002-of-00003*"))
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load_latest(tmp_path)


def test_a_rank_that_never_writes_leaves_no_checkpoint(tmp_path: Path) -> None:
    saver = Saver(tmp_path, 2, 0, ranks=2, token="word", patience=0.1)
    saver.save(made(1, 1.0))
    with pytest.raises(TimeoutError, match="rank 1"):
        saver.finish()
    assert checkpoint.steps(tmp_path) == []
    assert list((tmp_path / checkpoint.FOLDER).iterdir())
    sweep(tmp_path)
    assert not list((tmp_path / checkpoint.FOLDER).iterdir())


def test_sweeping_puts_back_what_was_being_replaced(tmp_path: Path) -> None:
    (tmp_path / ".folder.12.old").mkdir()
    (tmp_path / ".folder.12.old" / "file").write_text("old")
    (tmp_path / ".other.12.old").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / ".file.json.12.tmp").write_text("half")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "other"]
    assert (tmp_path / "folder" / "file").read_text() == "old"


def test_a_colleague_can_read_what_was_saved(tmp_path: Path) -> None:
    earlier = os.umask(0o027)
    try:
        folder = checkpoint.save(tmp_path, made(1, 1.0), keep=1)
    finally:
        os.umask(earlier)
    assert {oct(file.stat().st_mode & 0o777) for file in folder.iterdir()} == {"0o640"}
