"""Files are whole or absent, whatever goes wrong in between; damaged checkpoints are passed over; manifests refuse mixtures."""

import errno
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from biomlm.core import checkpoint, files, manifest
from biomlm.core.checkpoint import Checkpoint
from biomlm.core.errors import CheckpointError, DataError, MismatchError
from biomlm.core.metrics import MetricsWriter, read_metrics


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    files.write_text(path, "old")
    with pytest.raises(OSError, match="full"), files.atomic_file(path) as tmp:
        tmp.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with files.atomic_dir(path) as tmp:
        (tmp / "a").write_text("1")
    with pytest.raises(OSError, match="full"), files.atomic_dir(path) as tmp:
        (tmp / "a").write_text("2")
        raise OSError("disk full")
    assert (path / "a").read_text() == "1"
    with files.atomic_dir(path) as tmp:
        (tmp / "b").write_text("3")
    assert [p.name for p in path.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_json_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json"):
        files.read_json(tmp_path / "x.json")


def three_checkpoints(run: Path) -> None:
    for step in (10, 20, 30):
        tensors = {"model": {"w": torch.full((3,), float(step))}, "optimizer": {}}
        checkpoint.save(run, Checkpoint(step, tensors, {"tokens": step}), keep=2)


def test_checkpoints_are_kept_and_read_back(tmp_path: Path) -> None:
    three_checkpoints(tmp_path)
    assert checkpoint.steps(tmp_path) == [20, 30]
    newest = checkpoint.load_latest(tmp_path)
    assert newest is not None
    assert (newest.step, newest.state["tokens"], newest.tensors["model"]["w"][0]) == (30, 30, 30.0)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "state"])
def test_a_damaged_checkpoint_is_passed_over_with_a_word(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    three_checkpoints(tmp_path)
    newest = checkpoint.path_of(tmp_path, 30)
    weights = newest / "model.safetensors"
    data = bytearray(weights.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "truncate":
        weights.write_bytes(data[:-2])
    elif damage == "remove":
        weights.unlink()
    else:
        (newest / "state.json").write_text("{")
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert found.step == 20
    assert "step_30 is damaged" in capsys.readouterr().err
    (checkpoint.path_of(tmp_path, 20) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="every checkpoint"):
        checkpoint.load_latest(tmp_path)


@dataclass(frozen=True)
class Config:
    rate: float = 1.0


def test_a_folder_is_not_mixed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = manifest.begin(out, "pretrain", Config(), {"shards": "aa"})
    assert manifest.begin(out, "pretrain", Config(), {"shards": "aa"}).status == "running"
    (out / "w").write_text("x")
    with pytest.raises(DataError, match="interrupted"):
        manifest.read_manifest(out, "pretrain")
    with pytest.raises(MismatchError, match=r"rate \(1.0 then, 2.0 now\)"):
        manifest.begin(out, "pretrain", Config(2.0), {"shards": "aa"})
    with pytest.raises(MismatchError, match="input: shards"):
        manifest.begin(out, "pretrain", Config(), {"shards": "bb"})
    with pytest.raises(DataError, match=r"biomlm pretrain(.|\n)*another --out"):
        manifest.begin(out, "distill", Config(), {"shards": "aa"})
    first.finish(out, [out / "w"], {"steps": 1})
    assert manifest.begin(out, "pretrain", Config(), {"shards": "aa"}).status == "done"
    assert manifest.begin(out, "pretrain", Config(2.0), {"shards": "aa"}, override=True).status == "running"


def test_a_mistake_before_the_first_output_claims_no_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest.begin(out, "pretrain", Config(), {"shards": "mistyped"})
    (out / "parts").mkdir()
    manifest.begin(out, "pretrain", Config(2.0), {"shards": "aa"})
    assert manifest.read_manifest(out, "pretrain", finished=False).inputs == {"shards": "aa"}


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(MismatchError, match="not empty"):
        manifest.begin(tmp_path, "pretrain", Config(), {})


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.write(step, "train", {"loss": 1.0 / step})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "spl')
    with MetricsWriter(tmp_path, step=2) as writer:
        writer.write(3, "train", {"loss": 9.0})
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path)] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    assert [folder.name for folder in (tmp_path / "tensorboard").iterdir()] == ["train"]


def test_training_and_held_out_loss_are_on_one_plot_of_tensorboard(tmp_path: Path) -> None:
    """TensorBoard draws lines of one name on one plot, a line for each folder."""
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.write(step, "train", {"loss": 1.0 / step, "batches": "a word"})
            writer.write(step, "valid", {"loss": 2.0 / step, "loss/pubmed": 3.0 / step})
    for split, scale in (("train", 1), ("valid", 2)):
        events = EventAccumulator(str(tmp_path / "tensorboard" / split)).Reload()
        assert [event.value for event in events.Scalars("loss")] == pytest.approx([scale, scale / 2, scale / 3])


def test_a_full_disk_is_an_os_error_and_leaves_the_earlier_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_checkpoints(tmp_path)

    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoint.save(tmp_path, Checkpoint(40, {"model": {"w": torch.ones(1)}}, {}), keep=2)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_20", "step_30"]
