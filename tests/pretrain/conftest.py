"""Runs on several processes, without seconds of imports for each: they are forked from a server that has done them."""

import multiprocessing
import runpy
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import coverage
import pytest

from biomlm.core.metrics import read_metrics

PRELOAD = [
    "biomlm.pretrain.commands.pretrain",
    "torch.utils.tensorboard",
    "torch.distributed.fsdp",
    "biomlm.core.cli",
    "deepspeed",
]
MODEL = ["--model.num_hidden_layers", "2", "--model.hidden_size", "32", "--model.num_attention_heads", "2"]
SMALL = [
    "--batch.tokens",
    "128",
    "--batch.max_length",
    "32",
    "--optim.lr",
    "3e-3",
    "--seed",
    "1",
    "--precision",
    "fp32",
]


class Ranks:
    """The processes of one run."""

    def __init__(self, processes: list[BaseProcess], logs: list[Path]):
        self.processes, self.logs = processes, logs

    def wait(self, timeout: float = 120) -> list[int]:
        """Exit codes, by rank; negative for a signal."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(deadline - time.monotonic(), 0.1))
        late = [rank for rank, process in enumerate(self.processes) if process.exitcode is None]
        for process in self.processes:
            process.kill()
        assert not late, f"ranks {late} did not end:\n{self.said()}"
        return [process.exitcode or 0 for process in self.processes]

    def said(self) -> str:
        """All that the ranks printed."""
        return "".join(log.read_text() for log in self.logs if log.exists())


@pytest.fixture(scope="session")
def start_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Ranks]]:
    """Start `biomlm` on so many processes: start_ranks(2, argv, patch="nan.py", ADDED="environment")."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    started: list[Ranks] = []
    measured = coverage.Coverage.current()
    data = "" if measured is None else str(Path(measured.config.data_file).absolute())

    def start(size: int, argv: Sequence[str], patch: str = "", **env: str) -> Ranks:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        folder = tmp_path_factory.mktemp("ranks")
        processes, logs = [], [folder / str(rank) for rank in range(size)]
        for rank in range(size):
            where = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "MASTER_PORT": port}
            told = {"ENV": {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", **where, **env}}
            given = {**told, "ARGV": list(argv), "LOG": str(logs[rank]), "PATCH": patch, "COVERAGE": data}
            script = str(Path(__file__).with_name("rank.py"))
            processes.append(context.Process(target=runpy.run_path, args=(script, given)))
            processes[-1].start()
        started.append(Ranks(processes, logs))
        return started[-1]

    yield start
    for ranks in started:
        for process in ranks.processes:
            process.kill()


def argv(shards: Path, out: Path, steps: int, *more: str) -> list[str]:
    """A small run."""
    return ["pretrain", "--shards", str(shards), "--out", str(out), "--steps", str(steps), *MODEL, *SMALL, *more]


@pytest.fixture(scope="session")
def small_run() -> Callable[..., list[str]]:
    """The words of a small run: small_run(shards, out, steps, …)."""
    return argv


@pytest.fixture(scope="session")
def records() -> Callable[[Path, str], dict[int, object]]:
    """records(run, name): what `metrics.jsonl` says of training under a name, by step."""
    return lambda run, name: {r["step"]: r[name] for r in read_metrics(run) if r["split"] == "train" and name in r}
