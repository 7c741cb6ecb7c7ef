"""Fine-tuning on several processes: the scores of one, resumed on another number of them."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomlm.core import cli
from biomlm.core.files import read_json
from biomlm.core.metrics import read_metrics

Start = Callable[..., Any]
WORDS = [
    "--epochs",
    "3",
    "--batch.size",
    "16",
    "--batch.accumulation",
    "2",
    "--optim.lr",
    "3e-3",
    "--precision",
    "fp32",
]


def argv(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    where = ["--model", str(model), "--task", "ner", "--data", str(data), "--out", str(out)]
    return ["finetune", *where, *WORDS, "--log_every", "1", *more]


@pytest.fixture(scope="module")
def alone(tiny_model: Path, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one process."""
    out = tmp_path_factory.mktemp("ranks") / "alone"
    assert cli.run(argv(tiny_model, toy, out)) == 0
    return out


def require_same_scores(out: Path, alone: Path) -> None:
    ours, theirs = (read_json(folder / "seed_1/result.json") for folder in (out, alone))
    for a, b in zip(ours["history"], theirs["history"], strict=True):  # type: ignore[call-overload]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3, abs=1e-4)
    for fold in ("dev", "test"):
        assert ours[fold]["f1"] == pytest.approx(theirs[fold]["f1"], abs=0.02)  # type: ignore[index]
    batches = [
        {record["step"]: record["batches"] for record in read_metrics(folder / "seed_1") if record["split"] == "train"}
        for folder in (out, alone)
    ]
    assert batches[0] == batches[1], "every step has read the same"
    assert read_json(out / "manifest.json")["status"] == "done"
    assert read_json(out / "scores.json")["test"]["f1"] > 0.3, "it has learnt, so equality says something"  # type: ignore[index]


def test_two_processes_score_as_one(
    alone: Path, tiny_model: Path, toy: Path, start_ranks: Start, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    ranks = start_ranks(2, argv(tiny_model, toy, out))
    assert ranks.wait(240) == [0, 0], ranks.said()
    require_same_scores(out, alone)
    assert read_json(out / "manifest.json")["resolved"]["processes"] == 2  # type: ignore[index]
    assert sorted(p.name for p in out.glob("*")) == sorted(p.name for p in alone.glob("*"))
    again = start_ranks(2, argv(tiny_model, toy, out))
    assert again.wait() == [0, 0], again.said()


def test_a_process_without_work_is_refused(tiny_model: Path, toy: Path, start_ranks: Start, tmp_path: Path) -> None:
    words = argv(tiny_model, toy, tmp_path / "run")
    at = words.index("--batch.accumulation")
    ranks = start_ranks(2, words[:at] + words[at + 2 :])
    assert ranks.wait() == [2, 2], ranks.said()
    assert "batch.accumulation is 1 and there are 2 processes: 1 would have nothing to compute" in ranks.said()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_goes_on_from_two_processes_on_one_and_on_two(
    alone: Path, tiny_model: Path, toy: Path, start_ranks: Start, tmp_path: Path
) -> None:
    """SIGTERM to one rank is enough; each part ends within an epoch."""
    out = tmp_path / "run"

    def logged() -> int:
        return sum(record["split"] == "train" for record in read_metrics(out / "seed_1"))

    for size, steps in ((2, 5), (1, 20)):
        ranks = start_ranks(size, argv(tiny_model, toy, out))
        deadline = time.monotonic() + 240
        while logged() < steps and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(ranks.processes[-1].pid, signal.SIGTERM)
        assert ranks.wait(240) == [75] * size, ranks.said()
        assert read_json(out / "manifest.json")["status"] == "stopped"
    ranks = start_ranks(2, argv(tiny_model, toy, out))
    assert ranks.wait(240) == [0, 0], ranks.said()
    assert "going on from step" in ranks.said()
    require_same_scores(out, alone)
