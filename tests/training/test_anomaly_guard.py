"""Faults, injected: bad losses, lost ranks, damaged and unwritable checkpoints."""

import math
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from biomlm.core import checkpoint, cli
from biomlm.core.errors import DataError
from biomlm.core.files import read_json
from biomlm.core.metrics import read_metrics
from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.training.anomaly_guard import SETTLED, Guard
from biomlm.training.config import GuardConfig
from biomlm.training.distributed.loss_scale import FLOOR, INTERVAL, START, LossScale
from biomlm.training.objective import LossDenominators

STEPS = 16
EVERY = ["--log_every", "1", "--save_every", "4", "--keep", "9"]
Words = Callable[..., list[str]]
Records = Callable[[Path, str], dict[int, Any]]


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """spoil(steps, factor): multiply the losses of the plan's steps, counted from 1, which are single micro-batches here."""
    plain = PretrainObjective.forward

    def spoil(steps: list[int], factor: float) -> None:
        def forward(
            self: PretrainObjective, model: MaskedLM, batch: Batch, totals: LossDenominators
        ) -> dict[str, Tensor]:
            terms = plain(self, model, batch, totals)
            bad = model.training and batch.index + 1 in steps
            return {**terms, "loss": terms["loss"] * (factor if bad else 1.0)}

        monkeypatch.setattr(PretrainObjective, "forward", forward)

    return spoil


def events(run: Path) -> list[str]:
    return [record["event"] for record in read_metrics(run) if record["split"] == "guard"]


def test_one_bad_batch_is_left_out(
    tiny_shards: Path, small_run: Words, spoil: Callable[..., None], records: Records, tmp_path: Path
) -> None:
    spoil([7], math.nan)
    assert cli.run(small_run(tiny_shards, tmp_path / "run", STEPS, *EVERY)) == 0
    assert len(events(tmp_path / "run")) == 1
    assert "the loss is not finite (micro-batch 6 of epoch 0)" in events(tmp_path / "run")[0]
    assert all(map(math.isfinite, records(tmp_path / "run", "loss").values()))
    result, manifest = read_json(tmp_path / "run" / "result.json"), read_json(tmp_path / "run" / "manifest.json")
    assert result["guard"]["skipped"] == 1  # type: ignore[index]
    assert manifest["counts"]["steps_left_out"] == 1  # type: ignore[index]


def test_after_bad_steps_in_a_row_the_run_goes_back_and_steps_over(
    tiny_shards: Path, small_run: Words, spoil: Callable[..., None], records: Records, tmp_path: Path
) -> None:
    """Batches 10 to 12 are bad: at step 12 the run goes back to checkpoint 8 and reads on behind batch 12."""
    spoil([], 1)
    assert cli.run(small_run(tiny_shards, tmp_path / "plain", STEPS + 4, *EVERY)) == 0
    spoil([10, 11, 12], math.inf)
    argv = small_run(tiny_shards, tmp_path / "run", STEPS, *EVERY, "--guard.patience", "3")
    assert cli.run(argv) == 0
    assert events(tmp_path / "run") == ["went back from step 12 to 8, and steps over the batches between"]
    plain, ours = records(tmp_path / "plain", "batches"), records(tmp_path / "run", "batches")
    assert list(ours.values()) == [plain[step] for step in (*range(1, 9), *range(13, 21))]
    guard = read_json(tmp_path / "run" / "result.json")["guard"]
    assert (guard["skipped"], guard["rewinds"], guard["shift"]) == (3, 1, 4)  # type: ignore[index]


def test_there_is_a_limit_to_going_back(
    tiny_shards: Path, small_run: Words, spoil: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(list(range(6, 100)), math.nan)
    more = ["--guard.patience", "2", "--guard.rewinds", "2"]
    assert cli.run(small_run(tiny_shards, tmp_path / "run", STEPS, *EVERY, *more)) == 2
    assert "2 returns did not help" in capsys.readouterr().err
    assert checkpoint.latest_whole(tmp_path / "run") == 4
    spoil([1, 2, 3], math.nan)
    assert cli.run(small_run(tiny_shards, tmp_path / "new", STEPS, *EVERY, *more)) == 2
    assert "no checkpoint to go back to" in capsys.readouterr().err


def test_a_spike_is_left_out_and_a_lasting_change_is_accepted() -> None:
    guard = Guard(GuardConfig(spike=10, patience=50))
    assert all(guard.accepts(1.0, 1.0 + 0.1 * (step % 3)) for step in range(SETTLED))
    assert not guard.accepts(1.0, 20.0)
    assert "usually 1.1" in guard.problem
    assert guard.accepts(1.0, 1.0)
    assert not guard.problem
    verdicts = [guard.accepts(1.0, 30.0) for _ in range(40)]
    assert not verdicts[0]
    assert verdicts[-1]
    other = Guard(guard.config)
    other.load(guard.state())
    assert other.accepts(1.0, 500.0) == guard.accepts(1.0, 500.0)
    assert other.problem == guard.problem


def test_the_loss_scale_moves_as_torchs_scaler() -> None:
    theirs, ours = torch.amp.GradScaler("cpu"), LossScale()
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    assert (theirs.get_scale() or START, INTERVAL) == (ours.factor, theirs.get_growth_interval())
    theirs.set_growth_interval(3)
    ours.good_steps = 0
    for value in (1.0, math.inf, 1.0, 1.0, 1.0, math.inf, math.nan, 1.0, 1.0, 1.0, 1.0):
        theirs.scale((weight * value).sum()).backward()  # type: ignore[no-untyped-call]
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        if math.isfinite(value):
            ours.good_steps += INTERVAL - 3 if ours.good_steps == 0 else 0
            ours.good()
        else:
            ours.overflowed()
        assert ours.factor == theirs.get_scale()


def test_fp16_finds_its_scale(tiny_shards: Path, small_run: Words, spoil: Callable[..., None], tmp_path: Path) -> None:
    spoil([2], 1e36)  # finite itself, but not times the scale
    argv = small_run(tiny_shards, tmp_path / "run", 4, *EVERY, "--precision", "fp16", "--eval_tokens", "64")
    assert cli.run(argv) == 0
    assert "the loss scale becomes 32768" in events(tmp_path / "run")[0]
    state = checkpoint.load(checkpoint.path_of(tmp_path / "run", 4)).state
    assert state["engine"] == {"updates": 3, "scale": [START / 2, 2]}
    assert (state["guard"]["overflows"], state["guard"]["skipped"]) == (1, 0)


def test_the_loss_scale_has_a_floor() -> None:
    scale = LossScale()
    with pytest.raises(DataError, match="floor"):
        for _ in range(1 + round(math.log2(START / FLOOR))):
            scale.overflowed()


def test_flipped_bytes_cost_only_the_steps_since_the_checkpoint_before(
    tiny_shards: Path, small_run: Words, records: Records, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert cli.run(small_run(tiny_shards, whole, 8, *EVERY)) == 0
    shutil.copytree(whole, run)
    file = checkpoint.path_of(run, 8) / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"done"', '"running"'))
    assert cli.run(small_run(tiny_shards, run, 8, *EVERY)) == 0
    assert "is damaged and is passed over" in capsys.readouterr().err
    assert file.read_bytes() == (checkpoint.path_of(whole, 8) / "optimizer.safetensors").read_bytes()
    assert records(run, "loss") == records(whole, "loss")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full for any file above so many bytes."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_checkpoints_before_whole(
    tiny_shards: Path, small_run: Words, records: Records, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert cli.run(small_run(tiny_shards, whole, 8, *EVERY)) == 0
    assert cli.run(small_run(tiny_shards, run, 8, *EVERY, "--override")) == 0
    shutil.rmtree(checkpoint.path_of(run, 8))
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"done"', '"running"'))
    capsys.readouterr()
    with largest_file(100_000):
        assert cli.run(small_run(tiny_shards, run, 8, *EVERY)) != 0
    assert "File too large" in capsys.readouterr().err
    assert checkpoint.latest_whole(run) == 4
    assert not list(run.rglob(".*.tmp"))
    assert cli.run(small_run(tiny_shards, run, 8, *EVERY)) == 0
    name = "model.safetensors"
    assert (checkpoint.path_of(run, 8) / name).read_bytes() == (checkpoint.path_of(whole, 8) / name).read_bytes()
