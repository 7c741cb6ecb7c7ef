"""How the tasks of a pipeline are run: here, one by one or in several processes.

datatrove's own local executor waits for ever when the system kills one of its workers (its pool never learns of it), and its log of an
exception shows the values of variables, which would be text of notes. This one is a `PipelineExecutor` too, on `concurrent.futures`, and
silent.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from datatrove.executor.base import DistributedEnvVars, PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from biolm.core.errors import DataError

logger.disable("datatrove")


class LocalExecutor(PipelineExecutor):  # type: ignore[misc]
    """Runs the tasks on this machine.

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
        self.tasks, self.workers = tasks, workers
        self.watch = watch

    @property
    def world_size(self) -> int:
        """The number of tasks."""
        return self.tasks

    def get_distributed_env(self, _node_rank: int = -1) -> DistributedEnvVars:
        """What datatrove tells its steps about the machine: nothing."""
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
        watch, self.watch = self.watch, _nothing
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(min(self.workers, max(len(ranks), 1)), mp_context=context) as pool:
                running = {pool.submit(self._run_for_rank, rank, 1) for rank in ranks}
                while running:
                    done, running = wait(running, timeout=0.3, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                    watch()
        except BrokenProcessPool:
            raise DataError(
                "the system killed a worker, most likely for want of memory",
                remedy="Run the same command again with fewer --workers: it goes on where it was.",
            ) from None
        finally:
            self.watch = watch


def _nothing() -> None:
    """What a worker does when it is asked to watch."""
