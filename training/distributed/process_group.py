"""The processes of a run: their ranks, and what they broadcast and all-reduce.

`biomlm launch`, torchrun and DeepSpeed's launcher say it in RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR; `srun` says it in SLURM's own
variables. Small numbers (counts, hashes, decisions) go over gloo on the CPU, so a step never waits for the GPU to exchange them. Where
they meet is `training.distributed.meeting`.
"""

import atexit
import gc
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import orjson
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store

from biomlm.core import errors
from biomlm.core.errors import ConfigError, UserError
from biomlm.training.distributed.hang_detector import HangDetector
from biomlm.training.distributed.meeting import meet, wait_until

PORTS = (20_000, 20_000)  # first port and their number, of which a SLURM job's number chooses one


@dataclass(frozen=True)
class RankInfo:
    """The rank of a process among those of its run.

    Args:
        rank: Its number, from 0.
        size: Processes in all.
        local_rank: Its number on its machine, which is its GPU's.
        master: Host and port at which the processes meet; empty for one that is alone.
        file: The file through which they meet if they are all on one machine; empty if it is unknown that they are.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    master: tuple[str, int] = ("", 0)
    file: str = ""


def rank_info(env: Mapping[str, str]) -> RankInfo:
    """Read a launcher's environment variables; without any, the process is alone.

    A SLURM batch script is a process of its own beside those that `srun` starts in it, so it is alone too.

    Raises:
        ConfigError: They contradict each other, or one is missing.
    """
    try:
        if "RANK" in env and "WORLD_SIZE" in env:
            rank, size, local_rank = int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", "0"))
            info = RankInfo(rank, size, local_rank, _master(env, 29_500), file=env.get("BIOMLM_RENDEZVOUS", ""))
        elif "SLURM_PROCID" in env and "SLURM_STEP_ID" in env:
            port = PORTS[0] + int(env.get("SLURM_JOB_ID", "0")) % PORTS[1]
            size = int(env.get("SLURM_STEP_NUM_TASKS") or env["SLURM_NTASKS"])
            step = f"slurm-{env['SLURM_JOB_ID']}.{env['SLURM_STEP_ID']}.{env.get('SLURM_RESTART_COUNT', '0')}"
            file = step if env.get("SLURM_STEP_NUM_NODES") == "1" else ""
            rank, local_rank = int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"])
            info = RankInfo(rank, size, local_rank, _master(env, port), file=file)
        else:
            return RankInfo()
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"the launcher's variables are incomplete ({error})", remedy="Start the processes with torchrun or srun."
        ) from None
    if not 0 <= info.rank < info.size:
        raise ConfigError(f"rank {info.rank} of {info.size} processes", remedy="Start them with torchrun or srun.")
    return info


def _master(env: Mapping[str, str], port: int) -> tuple[str, int]:
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    return env.get("MASTER_ADDR") or first_host(nodes), int(env.get("MASTER_PORT") or port)


def first_host(nodes: str) -> str:
    """Return the first host of SLURM's compressed list: `gpu[03-06,9],login` → `gpu03`."""
    first = re.match(r"[^,\[]+(?:\[([^\]]*)\])?[^,\[]*", nodes)
    if first is None:
        return nodes
    if first[1] is None:
        return first[0]
    return first[0].replace(f"[{first[1]}]", re.split(r"[,-]", first[1])[0])


class BrokenOffError(Exception):
    """Work was broken off because a rank was asked to stop; it has to be done again."""


class World:
    """The processes of this run, joined in one group if there is more than one.

    Args:
        info: This process's rank, and where the others are.
        timeout: Seconds after which an exchange that a rank does not come to is given up.
    """

    def __init__(self, info: RankInfo, timeout: float = 1800.0):
        self.rank, self.size, self.local_rank, self.timeout = info.rank, info.size, info.local_rank, timeout
        self.store: Store | None = None
        self.broadcasts = 0
        self.is_asked_to_stop: Callable[[], bool] = lambda: False  # of this rank, while a loop runs that saves
        self.hang_detector = HangDetector(self)
        if info.size > 1:
            if torch.cuda.is_available():
                torch.cuda.set_device(info.local_rank % torch.cuda.device_count())
            self._join(info)

    def _join(self, info: RankInfo) -> None:
        # DeepSpeed and torch's device mesh look for these, whatever the launcher was.
        host, port = info.master
        variables = {"RANK": info.rank, "WORLD_SIZE": info.size, "LOCAL_RANK": info.local_rank}
        os.environ.update(
            {name: str(value) for name, value in {**variables, "MASTER_ADDR": host, "MASTER_PORT": port}.items()}
        )
        self.store = meet(info.rank, info.size, info.master, file=info.file, patience=self.timeout)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        group, patience = PrefixStore("group", self.store), timedelta(seconds=self.timeout)
        errors.explanations.append(self.hang_detector.explain)
        self.hang_detector.start()
        atexit.register(self.hang_detector.stop)
        # Said at once, NCCL connects now, not in the first step, and a barrier never has to guess.
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None
        dist.init_process_group(
            backend, store=group, rank=info.rank, world_size=info.size, timeout=patience, device_id=device
        )

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes logs, metrics and manifests."""
        return self.rank == 0

    def all_reduce_counts(self, numbers: Sequence[int]) -> list[int]:
        """Sum integers element by element over all ranks, modulo 2^63."""
        if self.size == 1:
            return list(numbers)
        row = self.all_reduce(torch.tensor(numbers, dtype=torch.int64))
        return [int(n) & (2**63 - 1) for n in row.tolist()]

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place, on whatever device it is."""
        if self.size > 1:
            self.hang_detector.moves()
            dist.all_reduce(values)
        return values

    def gather(self, value: float) -> list[float]:
        """Gather every rank's number, by rank."""
        row = np.zeros(self.size)
        row[self.rank] = value
        return self.all_reduce(torch.from_numpy(row)).tolist()

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value, any JSON, on every rank."""
        if self.store is None:
            return value
        self.broadcasts += 1
        self.hang_detector.moves()
        store, key = self.store, f"broadcast/{self.broadcasts}"
        if self.is_main:
            store.set(key, orjson.dumps(value).decode())
        wait_until(lambda: store.check([key]), self.timeout)
        return orjson.loads(store.get(key))

    def on_main(self, work: Callable[[], Any]) -> Any:
        """Do something on rank 0 alone, and return what it returned, any JSON, on every rank; its mistake ends the others as well.

        Raises:
            UserError: On rank 0, if that is what the work raised.
            SystemExit: On the others, then.
        """
        if not self.is_main:
            answer = self.broadcast(None)
            if answer is None:
                self.barrier()
                raise SystemExit(ConfigError.exit_code)  # rank 0 says why
            return answer[0]
        try:
            answer = [work()]
        except UserError:
            self.broadcast(None)
            self.barrier()  # the store that the others read it from ends with this process
            raise
        return self.broadcast(answer)[0]

    def break_off_if_asked(self) -> None:
        """Break off long work between two checkpoints; every rank calls this equally often.

        Raises:
            BrokenOffError: Some rank was asked to stop.
        """
        if self.all_reduce_counts([int(self.is_asked_to_stop())]) != [0]:
            raise BrokenOffError

    def barrier(self) -> None:
        """Wait until every rank has reached this call."""
        if self.size > 1:
            self.all_reduce_counts([0])

    def destroy(self) -> None:
        """Destroy the group, once nothing uses it any more: a DistributedDataParallel that outlives it hangs."""
        if self.size > 1:
            gc.collect()
            self.barrier()
            self.hang_detector.stop()
            dist.destroy_process_group()


@cache
def join(timeout: float) -> World:
    """Join the other processes, once, and return this process's world."""
    return World(rank_info(os.environ), timeout)
