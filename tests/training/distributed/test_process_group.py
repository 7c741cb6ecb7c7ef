"""Launchers' variables, how a step is dealt, and engines that are asked for what they are not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from biomlm.core import cli
from biomlm.core.errors import ConfigError
from biomlm.model.config import ModelConfig
from biomlm.pretrain.data.batches import Batches
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.objectives.config import MlmConfig
from biomlm.training.distributed.process_group import PORTS, RankInfo, World, first_host, rank_info
from biomlm.training.objective import LossDenominators
from biomlm.training.rank_batches import FINGERPRINT, batches_of_rank

SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "16",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_NODELIST": "gpu[03-06,9],login",
}


def test_each_launcher_is_understood() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "1234"}
    assert rank_info(torchrun) == RankInfo(3, 8, 1, ("host", 1234))
    assert rank_info(SLURM) == RankInfo(5, 16, 1, ("gpu03", PORTS[0] + 123456 % PORTS[1]))
    assert rank_info(SLURM | {"SLURM_STEP_NUM_TASKS": "8"}).size == 8
    one_node = rank_info(SLURM | {"SLURM_STEP_NUM_NODES": "1"})
    assert one_node.file == "slurm-123456.0.0", "of this job, this step and this time that it is run"
    assert rank_info(torchrun | {"BIOMLM_RENDEZVOUS": "/x/ranks"}).file == "/x/ranks"
    assert rank_info(SLURM | torchrun).size == 8, "torchrun inside a SLURM step wins"
    batch_script = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}
    assert rank_info(batch_script) == rank_info({}) == RankInfo()


@pytest.mark.parametrize(
    "env", [{"RANK": "8", "WORLD_SIZE": "8"}, {"RANK": "x", "WORLD_SIZE": "8"}, {**SLURM, "SLURM_PROCID": "16"}]
)
def test_contradictions_are_refused(env: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="torchrun or srun"):
        rank_info(env)
    with pytest.raises(ConfigError, match="SLURM_LOCALID"):
        rank_info({name: value for name, value in SLURM.items() if name != "SLURM_LOCALID"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("one", "one"), ("a1,a2", "a1"), ("n[7-9]", "n7"), ("n[007,9]", "n007"), ("r[1-2]-x,b", "r1-x"), ("", "")],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_alone_there_is_nothing_to_exchange() -> None:
    world = World(RankInfo())
    assert world.is_main
    assert (world.all_reduce_counts([3, 4]), world.gather(1.5), world.broadcast({"a": 1})) == ([3, 4], [1.5], {"a": 1})
    world.barrier()
    world.destroy()


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_a_step_is_dealt_without_loss_or_repetition(tiny_shards: Path, ranks: int) -> None:
    """Five micro-batches on up to seven ranks: sums of totals and fingerprints do not depend on the number."""
    batches = Batches(Shards([str(tiny_shards)], "train"), MlmConfig(), BatchConfig(128, 5, 32), 1)
    shape = ModelConfig(size="tiny").resolve(300, 32, 1)
    whole = batches_of_rank(batches, 3, 0, 1, model=shape)
    parts = [batches_of_rank(batches, 3, rank, ranks, model=shape) for rank in range(ranks)]
    assert len({len(part.batches) for part in parts}) == 1, "all ranks go forward equally often"
    real = [b.index for part in parts for b, w in zip(part.batches, part.weights, strict=True) if w]
    assert sorted(real) == [batch.index for batch in whole.batches]
    assert np.array_equal(np.sum([part.totals for part in parts], axis=0), whole.totals)
    assert LossDenominators(*whole.totals).masked == sum(len(batch.labels_m) for batch in whole.batches)
    assert sum(part.fingerprint for part in parts) & FINGERPRINT == whole.fingerprint
    assert batches_of_rank(batches, 4, 0, 1, model=shape).fingerprint != whole.fingerprint


def test_fsdp_on_one_process_is_refused(
    tiny_shards: Path, small_run: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(small_run(tiny_shards, tmp_path / "run", 2, "--engine", "fsdp")) == 2
    assert "there is only one" in capsys.readouterr().err
