"""Where a training of fairseq's begins: on which GPUs of how many machines, and from which weights.

fairseq reads checkpoints with pickle. So it is only given files that were written here, from weights read as `convert` reads them, or
files that the restricted reader has read through before, which refuses all that could run code.
"""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from biomlm.convert.formats import fairseq
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.load import read_source
from biomlm.convert.safe_load import torch_file
from biomlm.core.errors import ConfigError, DataError
from biomlm.core.files import atomic_dir
from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.config import PretrainConfig
from biomlm.training.distributed.process_group import RankInfo, World, rank_info

FOLDER, LAST, MODEL = "fairseq", "checkpoint_last.pt", "start"
TASKS = (
    "LOCAL_WORLD_SIZE",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_NTASKS_PER_NODE",
)  # processes of a machine, as launchers say it


@dataclass(frozen=True)
class Gpus:
    """The GPUs that fairseq trains on: it starts a process for each of a machine's, and finds the other machines by `--distributed-*`.

    Args:
        here: GPUs of each machine; 0 trains on the processor.
        machines: How many there are.
        machine: The number of this one, from 0.
        meet: Where the processes meet, as `torch.distributed` takes it; empty for one process.
    """

    here: int = 0
    machines: int = 1
    machine: int = 0
    meet: str = ""

    @property
    def size(self) -> int:
        """Processes in all."""
        return max(1, self.here * self.machines)

    @property
    def options(self) -> dict[str, object]:
        """Options of `fairseq-train`; `distributed-rank` is that of the machine's first process."""
        if self.size == 1:
            return {"distributed-world-size": 1}
        rank = self.machine * self.here
        return {"distributed-world-size": self.size, "distributed-rank": rank, "distributed-init-method": self.meet}


@dataclass(frozen=True)
class Start:
    """The weights that fairseq starts from.

    Args:
        options: Options of `fairseq-train`; none for random weights.
        updates: Steps that the run before had, from which fairseq goes on counting.
    """

    options: Mapping[str, object] = field(default_factory=dict)
    updates: int = 0


def require_one_process(env: Mapping[str, str]) -> None:
    """Refuse several processes on one machine.

    Raises:
        ConfigError: There are; fairseq starts its own.
    """
    info = rank_info(env)
    processes = [int(count) for name in TASKS for count in re.findall(r"\b\d+", env.get(name, ""))]
    if info.size > 1 and (info.local_rank or max(processes, default=1) > 1):
        remedy = "Start it once on each machine: fairseq-train starts a process for each GPU there by itself."
        raise ConfigError("each process would start a fairseq of its own in one folder", remedy=remedy)


def gpus_of(world: World) -> Gpus:
    """Find the GPUs of all machines.

    Raises:
        ConfigError: Machines differ, or have none.
    """
    gpus_here = torch.cuda.device_count()
    if world.size > 1 and (len(counts := set(world.gather(gpus_here))) > 1 or not gpus_here):
        raise ConfigError(
            f"fairseq has no training on {world.size} machines of {' and '.join(f'{n:g}' for n in sorted(counts))} GPUs",
            remedy="Give it machines with the same number of GPUs, or give another --engine.",
        )
    gpus = Gpus(gpus_here, world.size, world.rank)
    return gpus if gpus.size == 1 else Gpus(gpus_here, world.size, world.rank, _meeting(rank_info(os.environ)))


def _meeting(info: RankInfo) -> str:
    """Choose where fairseq's processes meet: behind the port at which ours do, or on one machine at a port that is free."""
    host, port = info.master
    if info.size > 1:
        return f"tcp://{host}:{port + 1}"
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return f"tcp://localhost:{listener.getsockname()[1]}"


def start_of(config: PretrainConfig, model: MaskedLM, world: World) -> Start:
    """Give fairseq the weights to start from, and read through what it will read with pickle.

    Args:
        config: Of the run.
        model: Initial weights, over the shards' vocabulary.
        world: The machines; one of them writes.

    Raises:
        MismatchError: fairseq has no such model.
        DataError: `longer` names a run of another engine.
        UnsafeFileError: A checkpoint could run code.
    """
    run, tokenizer = Path(config.out), Path(config.folders[0]) / "tokenizer"
    saved = run / FOLDER / LAST
    if saved.exists():
        torch_file.load(saved)
    if config.init is not None:
        world.on_main(lambda: _write(model, run / FOLDER / MODEL))
        return Start({"finetune-from-model": run / FOLDER / MODEL / fairseq.FILE})
    if config.longer is None:
        return Start()
    before = Path(config.longer) / FOLDER / LAST
    if not before.is_file():
        raise DataError(
            "there is no checkpoint of fairseq's in this run to train longer",
            file=config.longer,
            remedy="Give a run of --engine fairseq to --longer, or start from its model by --init.",
        )
    updates = int(read_source(before, tokenizer).facts["updates"])
    return Start({} if saved.exists() else {"restore-file": before}, updates)


def _write(model: MaskedLM, place: Path) -> None:
    if place.exists():
        return
    source = SourceCheckpoint("native", model.config, model.state_dict(), place)
    fairseq.refuse(source)
    with atomic_dir(place) as folder:
        fairseq.write(source, folder, torch.float32)
