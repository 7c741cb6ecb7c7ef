"""Where fairseq starts: one process a machine and the ranks of its GPUs, and what its own launcher makes of them."""

import json
import subprocess

import pytest
import torch

from biomlm.core.config import fairseq_env
from biomlm.core.errors import ConfigError
from biomlm.model.config import ModelConfig
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.fairseq_engine.command import call
from biomlm.pretrain.fairseq_engine.start import Gpus, gpus_of, require_one_process
from biomlm.training.distributed.process_group import RankInfo, World

ENV = fairseq_env()
CONFIG = PretrainConfig(shards="S", out="O", steps=50, batch=BatchConfig(256, 16, 32))

# fairseq's own launcher, with four GPUs that are not there, and what it would start instead of started.
LAUNCHER = """\
import json, sys
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils
torch.cuda.device_count = lambda: 4
def spawn(fn, args, nprocs, join):
    main, cfg, kwargs = args
    told = cfg.distributed_training
    print(json.dumps([nprocs, kwargs["start_rank"], told.distributed_world_size, told.distributed_init_method,
                      list(cfg.optimization.update_freq)]))
torch.multiprocessing.spawn = spawn
cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), sys.argv[1:]))
utils.call_main(cfg, None)
"""


@pytest.mark.parametrize("machines", [1, 2])
def test_fairseqs_own_launcher_gives_each_rank_once(machines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (ENV / "bin" / "python").exists():
        pytest.skip("there is no environment with fairseq (docs/fairseq.md)")
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    ranks: list[int] = []
    for machine in range(machines):
        words = call(
            CONFIG,
            ModelConfig(size="tiny").resolve(300, 32, 1),
            "fp16",
            gpus=Gpus(4, machines, machine, "tcp://gpu01:29501"),
        )
        done = subprocess.run(
            [ENV / "bin" / "python", "-c", LAUNCHER, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        processes, first, size, meeting, update_freq = json.loads(done.stdout.splitlines()[-1])
        ranks += range(first, first + processes)
        assert (size, meeting) == (4 * machines, "tcp://gpu01:29501")
        assert update_freq == [16 // (4 * machines)], "micro-batches of each process, 16 of all"
    assert ranks == list(range(4 * machines))


def test_a_step_has_the_same_micro_batches_on_any_number_of_gpus() -> None:
    encoder = ModelConfig(size="tiny").resolve(300, 32, 1)

    def said(gpus: Gpus) -> dict[str, str]:
        words = call(CONFIG, encoder, "fp32", gpus=gpus)
        return dict(zip(words[1::2], words[2::2], strict=False))

    assert (said(Gpus())["--update-freq"], said(Gpus())["--distributed-world-size"]) == ("16", "1")
    second = said(Gpus(4, 2, 1, "tcp://a:1"))
    assert (second["--update-freq"], second["--distributed-world-size"], second["--distributed-rank"]) == (
        "2",
        "8",
        "4",
    )
    with pytest.raises(ConfigError, match="no steps of 16 micro-batches on 3 GPUs"):
        said(Gpus(3, 1, 0, "tcp://a:1"))


@pytest.mark.parametrize(
    "env",
    [
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
        {
            "SLURM_PROCID": "0",
            "SLURM_JOB_ID": "7",
            "SLURM_STEP_ID": "0",
            "SLURM_NTASKS": "16",
            "SLURM_LOCALID": "0",
            "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
        },
    ],
)
def test_several_processes_on_a_machine_are_refused(env: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="a fairseq of its own in one folder"):
        require_one_process(env)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        {
            "SLURM_PROCID": "1",
            "SLURM_JOB_ID": "7",
            "SLURM_STEP_ID": "0",
            "SLURM_NTASKS": "2",
            "SLURM_LOCALID": "0",
            "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        },
    ],
)
def test_one_process_on_each_machine_is_right(env: dict[str, str]) -> None:
    require_one_process(env)


class Machines(World):
    """Two machines, the other of which has so many GPUs."""

    def __init__(self, others: int):
        super().__init__(RankInfo())
        self.size, self.rank, self.others = 2, 1, others

    def gather(self, value: float) -> list[float]:
        return [float(self.others), value]


def test_gpus_are_found_on_each_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    env = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "gpu01", "MASTER_PORT": "29500"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert gpus_of(Machines(4)) == Gpus(4, 2, 1, "tcp://gpu01:29501"), "the port behind that of our own processes"
    with pytest.raises(ConfigError, match="2 machines of 4 and 8 GPUs"):
        gpus_of(Machines(8))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="2 machines of 0 GPUs"):
        gpus_of(Machines(0))


def test_the_gpus_of_one_machine_meet_at_a_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpus = gpus_of(World(RankInfo()))
    assert (gpus.size, gpus.meet.rpartition(":")[0]) == (2, "tcp://localhost")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert gpus_of(World(RankInfo())).options == {"distributed-world-size": 1}
