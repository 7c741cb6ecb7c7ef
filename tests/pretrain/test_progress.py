"""Progress of a run and place in its data are two things: a run that trains another longer, or that stepped over bad batches, has the
same rates, ramps and stages as a new one, and reads nothing twice."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from biomlm.core import checkpoint, cli
from biomlm.core.files import read_json, write_json
from biomlm.core.metrics import read_metrics
from biomlm.distill.losses.config import weight_at
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.data.config import BatchConfig, MixConfig, StageConfig
from biomlm.pretrain.data.curriculum import Curriculum
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.objectives.config import MlmConfig

STEPS = 12
SIZES = BatchConfig(tokens=512, max_length=32)
MODEL = ["--model.num_hidden_layers", "1", "--model.hidden_size", "16", "--model.num_attention_heads", "2"]
SMALL = ["--batch.tokens", "512", "--batch.max_length", "32", "--seed", "1", "--precision", "fp32", "--log_every", "1"]


def made(shards: Path, *stages: StageConfig, batch: BatchConfig = SIZES, mix: MixConfig | None = None) -> Curriculum:
    """Of a run of `STEPS` steps whose masking rate falls from 0.3 to 0.1."""
    mlm = MlmConfig(mask_rate=0.3, final_mask_rate=0.1)
    run = PretrainConfig(
        shards=str(shards), out="", steps=STEPS, batch=batch, mlm=mlm, curriculum=list(stages), mix=mix or MixConfig()
    )
    return Curriculum(read(shards), run, False)


@cache
def read(shards: Path) -> Shards:
    return Shards([shards], "train")


def shown(batches: list[Batch]) -> list[list[int]]:
    return [batch.packed.input_ids_t.tolist() for batch in batches]


def predicted(batches: list[Batch]) -> set[tuple[int, int]]:
    """Place and pass of every predicted token."""
    return {(int(place), batch.epoch) for batch in batches for place in batch.places_m}  # type: ignore[union-attr]


SHORT = StageConfig(steps=5, max_length=16)
LARGE = StageConfig(steps=3, accumulation=2)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=st.sampled_from([(), (SHORT,), (LARGE, SHORT)]), read_on=st.integers(0, 500), stages=st.booleans())
def test_a_longer_run_sees_what_a_new_one_sees(
    tiny_shards: Path, old: tuple[StageConfig, ...], read_on: int, stages: bool
) -> None:
    """Rates, ramps and stages go by the run's own steps, however far in the data another run has read."""
    before, new = made(tiny_shards, *old), [made(tiny_shards, *[SHORT, LARGE][: 2 * stages]) for _ in range(2)]
    before.step_over(STEPS - 1, read_on)
    fresh, longer = new
    longer.go_on(0, before.end(STEPS))
    for step in range(STEPS):
        ours, theirs = longer.step(step), fresh.step(step)
        assert [batch.step for batch in ours] == [step] * len(theirs)
        assert longer.stage(step).batch == fresh.stage(step).batch
        assert max(max(b.packed.lengths) for b in ours) <= longer.stage(step).batch.max_length
        assert 1 <= weight_at("5..1", ours[0].step / (STEPS - 1)) <= 5
        rate = 0.3 - 0.2 * step / STEPS
        tokens = sum((batch.packed.input_ids_t != -1).sum().item() - 2 * len(batch.packed.lengths) for batch in ours)
        share = sum(len(batch.labels_m) for batch in ours) / tokens
        assert abs(share - rate) < 5 * np.sqrt(rate * (1 - rate) / tokens)


@pytest.mark.parametrize("accumulation", [4, 1])
@pytest.mark.parametrize("stages", [(), (SHORT,)])
def test_nothing_is_predicted_twice_under_the_same_masks(
    tiny_shards: Path, accumulation: int, stages: tuple[StageConfig, ...]
) -> None:
    batch = BatchConfig(tokens=512, max_length=32, accumulation=accumulation)
    old, longer, longest = made(tiny_shards, batch=batch), made(tiny_shards, *stages), made(tiny_shards)
    longer.go_on(0, old.end(STEPS))
    longest.go_on(0, longer.end(STEPS))
    seen: set[tuple[int, int]] = set()
    for run in (old, longer, longest):
        for step in range(STEPS):
            new = predicted(run.step(step))
            assert new
            assert seen.isdisjoint(new)
            seen |= new


def test_the_same_plan_goes_on_where_it_was(tiny_shards: Path) -> None:
    """With equal sizes the next batch is the next one of the epoch, with its tokens; a mixture's too."""
    for mix in (MixConfig(), MixConfig(by="folder", weights={str(tiny_shards): 2.0})):
        through, longer = made(tiny_shards, mix=mix), made(tiny_shards, mix=mix)
        longer.go_on(0, made(tiny_shards, mix=mix).end(5))
        assert longer.names(0) == through.names(5)
        other = made(tiny_shards, mix=mix, batch=BatchConfig(tokens=256, max_length=32))
        other.go_on(0, through.end(5))
        assert other.names(0)[0][1] == 0, "another plan begins with an epoch"


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(back=st.integers(0, STEPS - 1), bad=st.integers(1, STEPS), then=st.integers(0, STEPS - 1))
def test_after_bad_steps_no_batch_comes_again_and_a_checkpoint_knows_the_place(
    tiny_shards: Path, back: int, bad: int, then: int
) -> None:
    """Across borders of stages too."""
    bad, then = min(back + bad, STEPS), max(back, then)
    run = made(tiny_shards, SHORT, LARGE)
    seen = {name for step in range(bad) for name in run.names(step)}
    run.step_over(back, bad - back)
    resumed = made(tiny_shards, SHORT, LARGE)
    resumed.go_on(then, run.end(then))
    for step in range(back, STEPS):
        assert seen.isdisjoint(run.names(step))
        seen |= set(run.names(step))
        assert {batch.step for batch in run.step(step)} == {step}
        if step >= then:
            assert resumed.names(step) == run.names(step)


def argv(shards: Path, out: Path, steps: int, *more: str) -> list[str]:
    return ["pretrain", "--shards", str(shards), "--out", str(out), "--steps", str(steps), *MODEL, *SMALL, *more]


def weights(run: Path, step: int) -> bytes:
    return (checkpoint.path_of(run, step) / "model.safetensors").read_bytes()


def train(run: Path, name: str) -> list[float]:
    return [record[name] for record in read_metrics(run) if record["split"] == "train"]


@pytest.fixture(scope="module")
def first(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("first") / "run"
    assert cli.run(argv(tiny_shards, run, 6, "--optim.ema", "0.99", "--optim.schedule", "constant")) == 0
    return run


def test_a_longer_run_is_masked_at_its_own_rate_and_keeps_the_mean(
    tiny_shards: Path, first: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    more = ["--longer", str(first), "--mlm.mask_rate", "0.3", "--mlm.final_mask_rate", "0.15", "--optim.ema", "0.5"]
    assert cli.run(argv(tiny_shards, run, 2, *more, "--save_every", "1")) == 0
    assert min(train(run, "loss")) > 3
    assert read_json(run / "manifest.json")["counts"]["steps_left_out"] == 0  # type: ignore[index]
    mean = load_file(checkpoint.path_of(first, 6) / "optimizer.safetensors")
    for step in (1, 2):
        found = checkpoint.load(checkpoint.path_of(run, step)).tensors
        seen = min(0.5, (1 + 5 + step) / (10 + 5 + step))  # of the mean, after 6 steps of the run before
        for name, weight in found["model"].items():
            expected = seen * mean[f"ema.{name}"] + (1 - seen) * weight
            assert (found["optimizer"][f"ema.{name}"] - expected).abs().max() < 1e-6
        mean = dict(found["optimizer"].items())


def test_a_mean_that_begins_in_a_longer_run_begins_as_in_a_new_one(
    tiny_shards: Path, first: Path, tmp_path: Path
) -> None:
    plain, run = tmp_path / "plain", tmp_path / "run"
    assert cli.run(argv(tiny_shards, plain, 2)) == 0
    assert cli.run(argv(tiny_shards, run, 1, "--longer", str(plain), "--optim.ema", "0.99")) == 0
    found = checkpoint.load(checkpoint.path_of(run, 1)).tensors
    assert all((found["optimizer"][f"ema.{name}"] - w).abs().max() < 1e-6 for name, w in found["model"].items())


STEADY = ["--optim.schedule", "constant", "--optim.warmup", "0", "--save_every", "2", "--keep", "9"]


def test_runs_of_earlier_versions_go_on_and_are_trained_longer(tiny_shards: Path, tmp_path: Path) -> None:
    """They counted steps of the run before as stepped over: same bits as 12 steps in one run."""
    paths = [tmp_path / name for name in ("through", "a", "b", "c")]
    through, a, b, c = paths
    assert cli.run(argv(tiny_shards, through, 12, *STEADY)) == 0
    assert cli.run(argv(tiny_shards, a, 4, *STEADY)) == 0
    age(a, 4, 0)
    assert cli.run(argv(tiny_shards, b, 4, *STEADY, "--longer", str(a))) == 0
    manifest = read_json(b / "manifest.json")
    write_json(b / "manifest.json", {**manifest, "status": "running"})
    (checkpoint.path_of(b, 4) / "state.json").unlink()
    age(b, 2, 4)
    assert cli.run(argv(tiny_shards, b, 4, *STEADY, "--longer", str(a))) == 0
    assert weights(b, 4) == weights(through, 8)
    age(b, 4, 4)
    assert cli.run(argv(tiny_shards, c, 4, *STEADY, "--longer", str(b))) == 0
    assert weights(c, 4) == weights(through, 12)


def age(run: Path, step: int, shift: int) -> None:
    """Write a checkpoint's state as earlier versions did."""
    path = checkpoint.path_of(run, step) / "state.json"
    state = json.loads(path.read_text())
    del state["data"]
    state["engine"].pop("updates_before", None)
    state["guard"]["shift"] = shift
    path.write_text(json.dumps(state))


def test_a_mean_of_checkpoints_cannot_be_trained_longer(
    tiny_shards: Path, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["pretrain", "average", str(first), "--last", "1", "--out", str(tmp_path / "mean")]) == 0
    assert cli.run(argv(tiny_shards, tmp_path / "run", 2, "--longer", str(tmp_path / "mean"))) == 2
    assert "no moments" in capsys.readouterr().err
