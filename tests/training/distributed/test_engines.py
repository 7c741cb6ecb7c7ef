"""Engines: the same batches, losses and weights on any number of processes, and checkpoints that any of them takes up."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from biomlm.convert.load import load_model
from biomlm.core import checkpoint, cli
from biomlm.core.files import read_json
from biomlm.model.device import Device
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.training.evaluate import Evaluator

STEPS = 10
EVERY = ["--log_every", "1", "--save_every", "4", "--batch.accumulation", "3"]
Words = Callable[..., list[str]]
Records = Callable[[Path, str], dict[int, Any]]


@pytest.fixture(scope="module")
def alone(tiny_shards: Path, small_run: Words, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run on one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    assert cli.run(small_run(tiny_shards, run, STEPS, *EVERY)) == 0
    return run


@pytest.fixture(scope="module", params=["torch", "fsdp"])
def two(
    request: pytest.FixtureRequest,
    tiny_shards: Path,
    small_run: Words,
    start_ranks: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The same on two processes, with three micro-batches a step to deal."""
    run = tmp_path_factory.mktemp(request.param) / "run"
    more = ["--engine", request.param, "--examples.count", "3", "--examples.sources", "text"]
    ranks = start_ranks(2, small_run(tiny_shards, run, STEPS, *EVERY, *more))
    assert ranks.wait() == [0, 0], ranks.said()
    return run


def test_two_processes_see_the_same_batches_and_lose_the_same(two: Path, alone: Path, records: Records) -> None:
    assert records(two, "batches") == records(alone, "batches")
    assert len(set(records(two, "batches").values())) == STEPS
    for name in ("loss", "gradient_norm"):
        assert list(records(two, name).values()) == pytest.approx(list(records(alone, name).values()), rel=1e-4)
    assert set(records(two, "slowest_rank").values()) <= {0, 1}


def test_two_processes_share_the_evaluation(two: Path, tiny_shards: Path) -> None:
    """Its figures are those of one process that looks at the model which they saved."""
    evaluator = Evaluator(Shards([tiny_shards], "valid"), BatchConfig(tokens=128, max_length=32), 0.15, 0)
    model, found = load_model(two).model, read_json(two / "result.json")["valid"]
    ours = asdict(evaluator(model, Device(torch.device("cpu"), "fp32")))
    assert {name: ours[name] for name in ("masked_tokens", "tokens", "accuracy")}.items() <= found.items()  # type: ignore[attr-defined]
    assert found["loss"] == pytest.approx(ours["loss"], rel=1e-6)  # type: ignore[index, call-overload]
    assert len((two / "examples.txt").read_text().strip().split("\n\n")) == 4


def test_a_checkpoint_is_a_model_whoever_wrote_it(two: Path, alone: Path) -> None:
    ours, theirs = load_model(two).model.state_dict(), load_model(alone).model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 1e-3 for name in ours)
    assert checkpoint.steps(two) == [8, STEPS]
    assert not list(two.rglob(".*.tmp"))
