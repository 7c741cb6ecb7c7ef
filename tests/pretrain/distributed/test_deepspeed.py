"""DeepSpeed's ZeRO stages, each going on from the checkpoint of another, lose what one process of torch's loses."""

import os
import signal
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
from biomlm.pretrain.config import DeepSpeedConfig, PretrainConfig
from biomlm.pretrain.distributed.deepspeed import settings

STEPS = 16
EVERY = ["--log_every", "1", "--save_every", "100", "--batch.accumulation", "3"]


def test_the_users_file_wins_and_auto_is_ours(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    write_json(file, {"zero_optimization": {"stage": 3}, "gradient_clipping": "auto", "bf16": {"enabled": True}})
    ours = DeepSpeedConfig(stage=1, offload=True, config=str(file))
    made = settings(PretrainConfig(shards="S", out="O", deepspeed=ours), 1000)
    sharing = {"stage": 3, "offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 1000}
    assert made["zero_optimization"] == sharing
    assert (made["gradient_clipping"], made["bf16"]) == (1.0, {"enabled": True})
    write_json(file, {"optimizer": {"type": "Adam"}})
    with pytest.raises(ConfigError, match="optimizer belongs into --optim"):
        settings(PretrainConfig(shards="S", out="O", deepspeed=DeepSpeedConfig(config=str(file))), 1000)


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
