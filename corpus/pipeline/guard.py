"""The only step that an executor sees: it runs the others, and lets out no exception that holds a value of theirs."""

from collections import deque
from typing import Any

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from biomlm.core.cli import keep_private
from biomlm.core.errors import TaskError, UserError, told


class Guarded(PipelineStep):  # type: ignore[misc]
    """Run steps one after the other and raise their exceptions anew, without the frames in which their data stand.

    Args:
        steps: datatrove steps, of which the last yields nothing that is needed.
    """

    type, name = "🛡 - GUARD", "biomlm"

    def __init__(self, steps: list[PipelineStep]):
        super().__init__()
        self.steps = steps

    def run(self, _data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Run the steps for task `rank`; yield nothing.

        Raises:
            UserError: A step found a mistake of the user's.
            OSError: The disk is full, or a file cannot be read or written.
            TaskError: Anything else.
        """
        keep_private()  # on a cluster no other line of ours runs before this one
        if (fault := self._fault(rank, world_size)) is not None:
            raise fault
        yield from ()

    def _fault(self, rank: int, world_size: int) -> Exception | None:
        try:
            data: Any = None
            for step in self.steps:
                data = step(data, rank, world_size)
            deque(data, maxlen=0)
        except UserError as error:
            return error.anew()
        except OSError as error:
            if error.errno is None:
                return TaskError(told(error))
            return OSError(error.errno, error.strerror, error.filename)
        except Exception as error:
            return TaskError(told(error))
        return None
