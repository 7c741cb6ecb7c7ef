"""Whatever interrupts a run, the same command ends with the same model: killed at any moment, stopped by a signal, on other numbers of
processes."""

import math
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomlm.core import checkpoint, cli
from biomlm.core.metrics import read_metrics
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.training.evaluate import Evaluator, evaluated

STEPS = 30
EVERY = ["--log_every", "1", "--save_every", "3", "--keep", "2", "--keep_every", "9", "--batch.accumulation", "3"]
Words = Callable[..., list[str]]
Records = Callable[[Path, str], dict[int, Any]]
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def whole(tiny_shards: Path, small_run: Words, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert cli.run(small_run(tiny_shards, run, STEPS, *EVERY)) == 0
    return run


def wait_for(condition: Callable[[], object], process: Any, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition() and process.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.001)


def files(run: Path) -> set[str]:
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if "tensorboard" not in path.parts}


def logged(run: Path) -> int:
    return len(read_metrics(run))


def test_five_kills_give_the_same_bits(
    whole: Path, tiny_shards: Path, small_run: Words, start_ranks: Start, records: Records, tmp_path: Path
) -> None:
    run, draw = tmp_path / "run", random.Random(0)
    folder, ends = run / checkpoint.FOLDER, sorted(draw.sample(range(2, STEPS - 2), 5))
    for number, end in enumerate(ends):
        ranks = start_ranks(1, small_run(tiny_shards, run, STEPS, *EVERY))
        process = ranks.processes[0]
        if number % 2:  # while a checkpoint is being written
            wait_for(lambda: any(folder.glob(".*.tmp")), process)
        else:
            wait_for(lambda end=end: logged(run) >= end, process)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, ranks.said()
    assert cli.run(small_run(tiny_shards, run, STEPS, *EVERY)) == 0
    last = f"{checkpoint.FOLDER}/step_{STEPS}"
    for name in ("model", "objective", "optimizer"):
        file = f"{last}/{name}.safetensors"
        assert (run / file).read_bytes() == (whole / file).read_bytes()
    for name in ("batches", "loss", "gradient_norm", "tokens"):
        assert records(run, name) == records(whole, name)
    assert sorted(records(run, "loss")) == list(range(1, STEPS + 1)), "every step once"
    assert files(run) == files(whole), "no file is left over"
    assert checkpoint.steps(run) == [9, 18, 27, STEPS]


def test_two_one_two_processes_see_the_same_batches(
    whole: Path, tiny_shards: Path, small_run: Words, start_ranks: Start, records: Records, tmp_path: Path
) -> None:
    """Stopped by the signals of SLURM, and taken up by another engine each time."""
    run = tmp_path / "run"
    argv = small_run(tiny_shards, run, STEPS, *EVERY)
    for size, engine, number, steps in ((2, "fsdp", signal.SIGUSR1, 8), (1, "torch", signal.SIGTERM, 16)):
        ranks = start_ranks(size, [*argv, "--engine", engine])
        wait_for(lambda steps=steps: logged(run) >= steps, ranks.processes[0])
        os.kill(ranks.processes[-1].pid, number)
        assert ranks.wait() == [75] * size, ranks.said()
        assert f"stopped by {number.name}" in ranks.said()
        assert max(checkpoint.steps(run)) == max(records(run, "loss"))
    ranks = start_ranks(2, argv)
    assert ranks.wait() == [0, 0], ranks.said()
    assert "going on from step" in ranks.said()
    assert records(run, "batches") == records(whole, "batches")
    assert records(run, "tokens") == records(whole, "tokens")
    for name in ("loss", "gradient_norm"):
        assert list(records(run, name).values()) == pytest.approx(list(records(whole, name).values()), rel=2e-4)
    assert not list(run.rglob(".*.tmp"))


def test_a_second_run_in_the_folder_is_refused_and_a_killed_one_is_taken_up(
    tiny_shards: Path, small_run: Words, start_ranks: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    argv = small_run(tiny_shards, run, 100_000, *EVERY)
    first = start_ranks(1, argv).processes[0]
    wait_for(lambda: checkpoint.steps(run), first)
    assert cli.run(argv) == 2
    said = capsys.readouterr().err
    assert f"process {first.pid} on {socket.gethostname()} is at work in this folder.\nWait for it" in said
    first.kill()
    first.join()
    before, second = logged(run), start_ranks(1, argv)
    wait_for(lambda: logged(run) > before, second.processes[0])
    second.processes[0].kill()
    second.processes[0].join()
    assert "going on from step" in second.said()
    assert logged(run) > before


def test_another_configuration_is_refused_and_override_is_said(
    whole: Path, tiny_shards: Path, small_run: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert cli.run(small_run(tiny_shards, run, 3, *EVERY)) == 0
    longer = small_run(tiny_shards, run, 6, *EVERY)
    capsys.readouterr()
    assert cli.run(longer) == 2
    assert "steps (3 then, 6 now)" in capsys.readouterr().err
    assert cli.run([*longer, "--override"]) == 0
    assert "steps (3 then, 6 now)" in capsys.readouterr().err, "what is overridden is said"
    assert sorted({r["step"] for r in read_metrics(run)}) == list(range(1, 7))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_in_an_evaluation_breaks_it_off_and_it_is_done_when_the_run_goes_on(
    number: signal.Signals,
    code: int,
    tiny_shards: Path,
    small_run: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At step 4 and in the last evaluation."""
    more = ["--log_every", "1", "--eval_every", "4", "--save_every", "100"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert cli.run(small_run(tiny_shards, whole, 6, *more)) == 0
    held_out = Evaluator(Shards([str(tiny_shards)], "valid"), BatchConfig(128, 1, 32), 0.15, 0)
    turns, scores, calls = len(evaluated(held_out.batches, math.inf)), Evaluator._scores, 0

    def interrupted(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (1, turns + 5):
            os.kill(os.getpid(), number)
        return scores(*given)

    monkeypatch.setattr(Evaluator, "_scores", staticmethod(interrupted))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert [cli.run(small_run(tiny_shards, run, 6, *more)) for _ in range(3)] == [code, code, 0]
    finally:
        signal.signal(signal.SIGINT, before)
    records = [[(r["step"], r["split"], r["loss"]) for r in read_metrics(folder)] for folder in (whole, run)]
    assert records[0] == records[1]
    file = "checkpoints/step_6/model.safetensors"
    assert (whole / file).read_bytes() == (run / file).read_bytes()
