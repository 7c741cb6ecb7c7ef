"""How the tasks of a pipeline are run: here, one by one or in several processes; on SLURM; on Ray.

datatrove's own local executor waits for ever when the system kills one of its workers (its pool never learns of it). `LocalExecutor` is
a `PipelineExecutor` too, on `concurrent.futures`, and silent. SLURM and Ray are datatrove's.

datatrove's log of an exception shows the values of the variables in every frame, which would be text of notes: an executor is given one
step, `Guarded`, which runs the others and lets only new exceptions out, whose frames and messages hold none.
"""

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from datatrove.executor.base import DistributedEnvVars, PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from biomlm.core.errors import ConfigError, DataError
from biomlm.core.processes.signals import prepare_workers, stay
from biomlm.corpus.config import Where
from biomlm.corpus.pipeline.guard import Guarded

logger.disable("datatrove")

POLL = 1.0  # seconds between looks at SLURM's jobs


def execute(
    pipeline: list[PipelineStep], tasks: int, workers: int, where: Where, marks: Path, watch: Callable[[], None]
) -> None:
    """Run every task that is not completed, and come back when all are.

    Args:
        pipeline: datatrove steps.
        tasks: How many tasks there are.
        workers: Tasks at a time; 0 takes one a core (local) or as many as the cluster gives.
        where: Where they run.
        marks: Folder of completion marks and logs.
        watch: Called a few times a second while tasks run, and at the end.

    Raises:
        ConfigError: Ray is not installed, or SLURM's partition is not named.
        DataError: A worker was killed, or a task failed on the cluster.
    """
    pipeline = [Guarded(pipeline)]
    if where.executor == "slurm":
        _slurm(pipeline, tasks, workers, where, marks, watch)
    elif where.executor == "ray":
        _ray(pipeline, tasks, workers, where, marks)
    else:
        LocalExecutor(pipeline, tasks, workers or multiprocessing.cpu_count(), str(marks), watch).run()
    missing = tasks - len(list((marks / "completions").glob("*")))
    if missing:
        raise DataError(
            f"{missing} of {tasks} tasks failed",
            file=marks / "logs",
            remedy="See the logs there; the same command goes on.",
        )
    watch()


class LocalExecutor(PipelineExecutor):  # type: ignore[misc]
    """Run the tasks on this machine.

    Args:
        pipeline: datatrove steps.
        tasks: How many tasks there are.
        workers: How many run at a time; 1 runs them in this process.
        logging_dir: Where completed tasks are marked.
        watch: Called a few times a second while tasks run.
    """

    def __init__(
        self, pipeline: list[PipelineStep], tasks: int, workers: int, logging_dir: str, watch: Callable[[], None]
    ):
        super().__init__(pipeline, logging_dir)
        self.tasks, self.workers, self.watch = tasks, workers, watch

    @property
    def world_size(self) -> int:
        """The number of tasks."""
        return self.tasks

    def get_distributed_env(self, _node_rank: int = -1) -> DistributedEnvVars:
        """Return what datatrove passes to its steps about the machine: nothing."""
        return DistributedEnvVars(
            datatrove_node_ips="localhost",
            datatrove_cpus_per_task="-1",
            datatrove_mem_per_cpu="-1",
            datatrove_gpus_on_node="-1",
            datatrove_executor="LOCAL",
        )

    def run(self) -> None:
        """Run every task that is not completed.

        Raises:
            DataError: A worker was killed from outside, most likely for its memory.
        """
        ranks = self.get_incomplete_ranks()
        if self.workers == 1:
            for rank in ranks:
                self._run_for_rank(rank, 1)
                self.watch()
            return
        watch, self.watch = self.watch, _nothing  # the executor travels to the workers, a progress bar cannot
        context = multiprocessing.get_context("spawn")
        prepare_workers()
        try:
            workers = min(self.workers, max(len(ranks), 1))
            with ProcessPoolExecutor(workers, mp_context=context, initializer=stay) as pool:
                running = {pool.submit(self._run_for_rank, rank, 1) for rank in ranks}
                try:
                    while running:
                        done, running = wait(running, timeout=0.3, return_when=FIRST_COMPLETED)
                        for future in done:
                            future.result()
                        watch()
                finally:
                    pool.shutdown(wait=True, cancel_futures=True)
        except BrokenProcessPool:
            raise DataError(
                "the system killed a worker, most likely for want of memory",
                remedy="Run the same command again with fewer workers: it goes on where it was.",
            ) from None
        finally:
            self.watch = watch


def _nothing() -> None:
    """Do nothing: what `watch` is in a worker."""


def _slurm(
    pipeline: list[PipelineStep], tasks: int, workers: int, where: Where, marks: Path, watch: Callable[[], None]
) -> None:
    """Submit the tasks as a job array and wait until it has left the queue."""
    from datatrove.executor.slurm import SlurmPipelineExecutor

    if not where.partition:
        raise ConfigError("SLURM needs a partition", remedy="Name one with --where.partition; `sinfo` lists them.")
    options: dict[str, Any] = {"mail_type": "NONE", "requeue": False, "slurm_logs_folder": str(marks / "slurm")}
    executor = SlurmPipelineExecutor(
        pipeline,
        tasks=tasks,
        time=where.time,
        partition=where.partition,
        mem_per_cpu_gb=where.memory,
        workers=workers or -1,
        job_name="biomlm-corpus",
        env_command=f"export PATH={Path(sys.executable).parent}:$PATH",
        logging_dir=str(marks),
        **options,
    )
    try:
        executor.run()
    except (FileNotFoundError, subprocess.CalledProcessError):
        raise ConfigError(
            "`sbatch` did not take the job", remedy="Check that SLURM is here and the partition is open."
        ) from None
    while executor.job_id and _queued(str(executor.job_id)):
        watch()
        time.sleep(POLL)


def _queued(job: str) -> bool:
    """Return whether any task of a job array waits or runs."""
    answer = subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True, check=False)
    return answer.returncode == 0 and bool(answer.stdout.strip())


def _ray(pipeline: list[PipelineStep], tasks: int, workers: int, where: Where, marks: Path) -> None:
    """Run the tasks on the Ray cluster that is connected, else on one started on this machine."""
    try:
        import ray  # type: ignore[import-not-found,unused-ignore]
        from datatrove.executor.ray import RayPipelineExecutor
    except ImportError:
        raise ConfigError("Ray is not installed", remedy="pip install 'biomlm[ray]'.") from None
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        RayPipelineExecutor(
            pipeline, tasks=tasks, workers=workers or -1, mem_per_cpu_gb=where.memory, logging_dir=str(marks)
        ).run()
    finally:
        if started:
            ray.shutdown()
