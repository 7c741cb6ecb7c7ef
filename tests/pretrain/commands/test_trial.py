"""`biomlm pretrain trial`: which size it takes of given speeds, what it says of a real model, and a fleet's plan."""

from pathlib import Path

import pytest
import torch

from biomlm.core import cli
from biomlm.core.files import read_json
from biomlm.pretrain.commands import trial
from biomlm.pretrain.data.batches import Batch
from biomlm.training.distributed.engine import Engine

SHAPE = "--model.num_hidden_layers 1 --model.hidden_size 16 --model.num_attention_heads 2 --steps 1 --precision fp32"


@pytest.fixture(scope="module")
def model(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tried") / "run"
    words = f"--batch.tokens 64 --batch.max_length 16 {SHAPE}".split()
    assert cli.run(["pretrain", "--shards", str(tiny_shards), "--out", str(out), *words]) == 0
    return out


def tried(model: Path, shards: Path, out: Path, *more: str) -> dict[str, object]:
    words = ["--shards", str(shards), "--out", str(out), *more]
    assert cli.run(["pretrain", "trial", str(model), *words]) == 0
    return read_json(out / "result.json")


def test_it_measures_a_real_model_and_leaves_its_weights_alone(model: Path, tiny_shards: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in model.rglob("*.safetensors")}
    result = tried(model, tiny_shards, tmp_path / "out", "--largest", "64", "--precision", "fp32")
    sizes = [attempt["tokens"] for attempt in result["tried"]]  # type: ignore[attr-defined]
    assert sizes == [16, 32, 64][: len(sizes)]
    assert result["micro_batch"] in sizes
    assert result["tokens_per_second"] > 100  # type: ignore[operator]
    assert (result["max_length"], result["has_head"], result["shape"]) == (16, True, "roberta")
    assert before == {path: path.read_bytes() for path in model.rglob("*.safetensors")}


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ([100, 200, 400, 410], 64),  # 128 gains less than 3%
        ([100, 50], 16),
        ([100, 200, None], 32),  # 64 does not fit
    ],
)
def test_the_smallest_size_that_is_about_as_fast_as_any_is_taken(
    model: Path,
    tiny_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    speeds: list[float | None],
    chosen: int,
) -> None:
    rest = list(speeds)

    def speed(engine: Engine, batch: Batch, *, warm: bool) -> float | None:
        return rest.pop(0)

    monkeypatch.setattr(trial, "_speed", speed)
    assert tried(model, tiny_shards, tmp_path / "out")["micro_batch"] == chosen
    assert not rest


def test_a_model_of_which_no_sequence_fits_is_refused(
    model: Path,
    tiny_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def backward(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("biomlm.training.distributed.ddp.DDPEngine.backward", backward)
    assert cli.run(["pretrain", "trial", str(model), "--shards", str(tiny_shards), "--out", str(tmp_path / "o")]) == 2
    assert "not even one sequence of 16 tokens fits into the memory" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU measures")
def test_a_fleet_is_planned_for_where_it_is_not(model: Path, tiny_shards: Path, tmp_path: Path) -> None:
    result = tried(model, tiny_shards, tmp_path / "out", "--fleet", "2 x v100-16gb", "--largest", "4096")
    assert result["device"] == "16 × V100 (planned)"
    assert (result["processes"], result["micro_batch"], result["tried"]) == (16, 4096, [])
