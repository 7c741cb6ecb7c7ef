"""DeepSpeed's ZeRO stages, each going on from the checkpoint of another, lose what one process of torch's loses."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from biomlm.convert.load import load_model
from biomlm.core import checkpoint, cli
from biomlm.core.errors import ConfigError
from biomlm.core.files import write_json
from biomlm.pretrain.config import PretrainConfig
from biomlm.training.config import DeepSpeedConfig
from biomlm.training.distributed.deepspeed_config import TAKEN, settings
from biomlm.training.distributed.loss_scale import START

STEPS = 16
EVERY = ["--log_every", "1", "--save_every", "100", "--batch.accumulation", "3"]


def told(given: dict[str, Any], tmp_path: Path, precision: Any = "bf16", **ours: Any) -> dict[str, Any]:
    """What DeepSpeed is told with a ds_config."""
    file = tmp_path / "ds.json"
    write_json(file, given)
    made = PretrainConfig(shards="S", out="O", deepspeed=DeepSpeedConfig(config=str(file), **ours))
    return settings(made.deepspeed, made.optim, 1000, precision)


def test_the_users_file_wins_and_auto_is_ours(tmp_path: Path) -> None:
    given = {"zero_optimization": {"stage": 3}, "gradient_clipping": "auto", "bf16": {"enabled": True}}
    made = told(given, tmp_path, stage=1, offload=True)
    sharing = {"stage": 3, "offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 1000}
    assert made["zero_optimization"] == sharing
    assert (made["gradient_clipping"], made["bf16"]) == (1.0, {"enabled": True})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimizer": {"type": "Adam"}}, "optimizer belongs into --optim"),
        ({"gradient_accumulation_steps": 8}, "gradient_accumulation_steps belongs into --batch.accumulation"),
        ({"train_batch_size": 64}, "train_batch_size belongs into --batch.tokens"),
        ({"gradient_clipping": 0.5}, "gradient_clipping belongs into --optim.clip"),
        ({"fp16": {"enabled": True}}, "fp16.enabled belongs into --precision"),
        ({"fp16": {"loss_scale": 128}}, "fp16.loss_scale is not DeepSpeed's to decide here"),
        (
            {"prescale_gradients": True, "communication_data_type": "fp16"},
            "communication_data_type is not .*; prescale_gradients is not",
        ),
        ({"gradient_predivide_factor": 2.0}, "gradient_predivide_factor is not"),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, "data_types is not"),
        (
            {"zero_optimization": {"zero_quantized_gradients": True}},
            "zero_optimization.zero_quantized_gradients is not",
        ),
        ({"zero_optimization": {"offload_optimizer": {"ratio": 0.3}}}, "offload_optimizer.ratio is not"),
        ({"zero_optimization": {"stage": 0}, "bf16": {"enabled": True}}, "no float32 weights for a checkpoint"),
        ({"zero_optimization": {"stage": 5}}, "no stage 5"),
        ({"no_such_entry": 1}, "no_such_entry is not"),
    ],
)
def test_what_would_change_the_arithmetic_is_refused(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        told(given, tmp_path)


def test_no_entry_of_deepspeeds_own_is_taken_that_the_next_test_does_not_try(tmp_path: Path) -> None:
    """All entries of ZeRO's section that this DeepSpeed knows are either tried below or refused."""
    zero = pytest.importorskip("deepspeed.runtime.zero.config").DeepSpeedZeroConfig
    for name, field in zero.model_fields.items():
        known = field.alias or name
        try:
            told({"zero_optimization": {known: 1}}, tmp_path)
        except ConfigError:
            continue
        assert known in {*TRIED, *UNTRIED, "stage"}


TRIED: dict[str, list[Any]] = {
    "contiguous_gradients": [True, False],
    "reduce_scatter": [True, False],
    "reduce_bucket_size": [100, 10_000],
    "use_multi_rank_bucket_allreduce": [True, False],
    "allgather_partitions": [True, False],
    "allgather_bucket_size": [100, 10_000],
    "overlap_comm": [False],
    "sub_group_size": [500, 100_000],
    "ignore_unused_parameters": [True, False],
    "round_robin_gradients": [True, False],
    "memory_efficient_linear": [False],
    "stage3_prefetch_bucket_size": [0, 1000],
    "stage3_param_persistence_threshold": [0, 10_000],
    "stage3_model_persistence_threshold": [0, 10_000],
    "stage3_max_live_parameters": [0, 10_000],
    "stage3_max_reuse_distance": [0, 10_000],
    "stage3_gather_16bit_weights_on_model_save": [True],
    "stage3_use_all_reduce_for_fetch_params": [False],
    "stage3_allgather_sequential": [False],
    "load_from_fp32_weights": [True, False],
    "log_trace_cache_warnings": [True],
    "offload_optimizer": [{"device": "cpu"}, {"device": "cpu", "pin_memory": False}],
}
UNTRIED = {  # they need several ranks, other devices or layers of another kind
    "zero_hpz_partition_size",
    "offload_param",
    "elastic_checkpoint",
    "stage3_module_granularity_threshold",
    "enable_sanity_checks",
}
assert {*TRIED, *UNTRIED, "stage"} <= TAKEN["zero_optimization"].keys()


def drawn(draw: random.Random, stage: int) -> dict[str, Any]:
    """A ds_config of accepted entries, with some of those that agree."""
    names = draw.sample(sorted(TRIED), 8)
    chosen = {name: draw.choice(TRIED[name]) for name in names} if stage else {}
    agree = {"gradient_clipping": 0.5, "steps_per_print": 1, "gradient_accumulation_steps": "auto", "optimizer": None}
    return {**agree, "zero_optimization": {**chosen, "stage": stage}}


def first_steps(cases: list[dict[str, Any]]) -> list[dict[str, dict[str, list[Any]]]]:
    """See first_steps.py; a process of its own, since DeepSpeed leaves its mark on one."""
    if find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    script = str(Path(__file__).with_name("first_steps.py"))
    env = {**os.environ, "DS_ACCELERATOR": "cpu"}
    ended = subprocess.run(
        [sys.executable, script], input=json.dumps(cases), env=env, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_whatever_ds_config_is_taken_the_steps_are_torchs() -> None:
    draw = random.Random(0)
    stages = [0, 1, 2, 3, 1, 2, 3, 3]
    plain = {"optimizer": "adamw", "precision": "fp32"}
    for case, found in zip(
        stages, first_steps([{"ds_config": drawn(draw, s), "stage": s, **plain} for s in stages]), strict=True
    ):
        ours, theirs = found["deepspeed"], found["torch"]
        for name in ("norm", "weights"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), f"stage {case}"


@pytest.mark.slow
def test_fp16_is_torchs_at_every_stage() -> None:
    """In real fp16: the scale divides out, clipping knows it, an overflow lowers the scale that is used and moves no weight."""
    kinds = [(0, "adamw"), (0, "lamb"), (1, "adamw"), (2, "adamw"), (3, "adamw")]
    cases = [
        {"ds_config": {"fp16": {"enabled": True}}, "stage": s, "optimizer": o, "precision": "fp16", "overflow": 1}
        for s, o in kinds
    ]
    for kind, found in zip(kinds, first_steps(cases), strict=True):
        ours, theirs = found["deepspeed"], found["torch"]
        for step in (0, 2):
            assert ours["norm"][step] == pytest.approx(theirs["norm"][step], rel=2e-3), kind
            assert ours["weights"][step] == pytest.approx(theirs["weights"][step], rel=1e-4), kind
        assert ours["weights"][1] == ours["weights"][0]
        assert not math.isfinite(ours["norm"][1])
        assert ours["scale"] == theirs["scale"] == [START, 2.0**39, START]
        assert ours["said"] == theirs["said"] == ["", "the gradient overflows, the loss scale becomes 5.49756e+11", ""]


@pytest.mark.slow
def test_fp16_moves_the_weights_alike_at_stages_0_to_2() -> None:
    """Over 50 steps, one of which overflows: a gradient divided by a scale that no loss was multiplied by would move them a seventh."""
    cases = [
        {"ds_config": {}, "stage": stage, "optimizer": "adamw", "precision": "fp16", "overflow": 20, "steps": 50}
        for stage in (0, 1, 2)
    ]
    runs = first_steps(cases)
    torchs = runs[0]["torch"]["moved"]
    assert torchs[20] == torchs[19] < torchs[21]
    for stage, run in enumerate(runs):
        moved, scale = run["deepspeed"]["moved"], run["deepspeed"]["scale"]
        assert moved == pytest.approx(torchs, rel=1e-2), f"stage {stage}"
        assert scale == runs[0]["torch"]["scale"], f"stage {stage}"


def test_it_says_what_is_missing(
    tiny_shards: Path,
    small_run: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "deepspeed", None)
        assert cli.run(small_run(tiny_shards, tmp_path / "run", 2, "--engine", "deepspeed")) == 2
    assert "pip install 'biomlm[deepspeed]'" in capsys.readouterr().err


@pytest.mark.slow
def test_every_stage_takes_up_the_others_checkpoints(
    tiny_shards: Path,
    small_run: Callable[..., list[str]],
    start_ranks: Callable[..., Any],
    records: Callable[[Path, str], dict[int, Any]],
    tmp_path: Path,
) -> None:
    if find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    alone, run, out = tmp_path / "alone", tmp_path / "run", tmp_path / "hf"
    assert cli.run(small_run(tiny_shards, alone, STEPS, *EVERY)) == 0
    argv = [*small_run(tiny_shards, run, STEPS, *EVERY), "--engine", "deepspeed", "--deepspeed.stage"]
    for stage, size, until in ((1, 2, 4), (3, 2, 7), (0, 1, 10)):
        ranks = start_ranks(size, [*argv, str(stage)])
        deadline = time.monotonic() + 120
        while len(records(run, "loss")) < until and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(ranks.processes[0].pid, signal.SIGUSR1)
        assert ranks.wait() == [75] * size, ranks.said()
    ranks = start_ranks(2, [*argv, "2", "--deepspeed.offload"])
    assert ranks.wait() == [0, 0], ranks.said()
    assert records(run, "batches") == records(alone, "batches")
    for name in ("loss", "gradient_norm", "learning_rate"):
        assert list(records(run, name).values()) == pytest.approx(list(records(alone, name).values()), rel=2e-4)
    ours, theirs = load_model(run).model.state_dict(), load_model(alone).model.state_dict()
    assert all((ours[name] - theirs[name]).abs().max() < 1e-3 for name in theirs)
    assert checkpoint.steps(run)[-1] == STEPS
    assert cli.run(["convert", str(run), str(out), "--to", "hf"]) == 0


def test_fp16_is_refused_where_deepspeed_has_none(
    tiny_shards: Path, small_run: Callable[..., list[str]], start_ranks: Callable[..., Any], tmp_path: Path
) -> None:
    """On a processor it wants oneDNN's fp16 products, which few have; its loss scale is then out of reach."""
    if find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    argv = small_run(tiny_shards, tmp_path / "run", 2, "--engine", "deepspeed", "--precision", "fp16")
    ranks = start_ranks(1, argv)
    has_it = torch.ops.mkldnn._is_mkldnn_fp16_supported()
    assert ranks.wait() == [0 if has_it else 2], ranks.said()
    assert has_it or "DeepSpeed computes no fp16 on this device" in ranks.said()
