"""First step of the pipeline: read a task's inputs with the reader of their source, and record how far it is."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers.base import BaseDiskReader

from biomlm.corpus.pipeline.inputs import Input
from biomlm.corpus.salt import Salt
from biomlm.corpus.sources import BY_NAME
from biomlm.corpus.text.document import PLACE, damaged

TIME_LIMIT = "time limit"  # why what is left of a file is set aside
BEAT = 0.5  # seconds between two entries of a task's progress


class ReadTask(PipelineStep):  # type: ignore[misc]
    """Yield the documents of task `rank`, in the order of its inputs.

    Args:
        tasks: The inputs of every task.
        work: The working folder; a task writes how many bytes it has read to `progress/`.
        options: Arguments of the readers, by source.
        salt: Where the salt of the readers stands that hide patients.
        seconds: Most of them for a file, with all that is done to its documents in this pass; 0 for no limit.
    """

    type, name = "📖 - READER", "biomlm"

    def __init__(
        self, tasks: list[list[Input]], work: str, options: dict[str, dict[str, Any]], salt: Salt, seconds: int = 0
    ):
        super().__init__()
        self.tasks, self.work, self.options, self.salt, self.seconds = tasks, work, options, salt, seconds
        self.readers = {item.source: BY_NAME[item.source].reader for inputs in tasks for item in inputs}

    def reader(self, item: Input) -> BaseDiskReader:
        """Make the reader for one input."""
        secret = {"salt": self.salt.text} if BY_NAME[item.source].patients else {}
        reader: BaseDiskReader = self.readers[item.source](
            str(Path(item.path).absolute().parent), **self.options[item.source], **secret
        )
        return reader

    def run(self, _data: DocumentsPipeline, rank: int = 0, _world_size: int = 1) -> DocumentsPipeline:
        """Read the inputs of task `rank`."""
        beat = Path(self.work) / "progress" / f"{rank:05d}"
        done, last_beat = 0, time.monotonic()
        for item in self.tasks[rank]:
            reader = self.reader(item)
            if item.part:
                reader.part = item.part
            first = item.part.lines_before + 1 if item.part else 1  # of a slice: no record of another has that number
            for number, document in enumerate(self._documents(reader, item), start=first):
                document.metadata["source"] = item.source
                document.metadata[PLACE] = f"{item.label}:{number}"
                yield document
                if time.monotonic() - last_beat > BEAT and not reader.raw.closed:
                    last_beat = time.monotonic()
                    beat.write_text(str(done + min(reader.raw.tell(), item.size)))
            done += item.size
            beat.write_text(str(done))

    def _documents(self, reader: BaseDiskReader, item: Input) -> Iterator[Document]:
        """Yield the documents of a file; if its time is up, the last is a stand-in that counts what is left of it as set aside."""
        documents = reader.read_file(Path(item.path).name)
        if not self.seconds:
            yield from documents
            return
        end = time.monotonic() + self.seconds
        number = 0
        try:
            while True:
                with _interrupted(end - time.monotonic()):
                    document = next(documents, None)
                if document is None:
                    return
                yield document
                number += 1
        except _TimeIsUp:
            where = f"{self.seconds} s are up after record {number}"
            yield damaged(item.source, Path(item.path).name, where, TIME_LIMIT)


class _TimeIsUp(BaseException):
    """The time of a file; no `except Exception` of a reader takes it for damage."""


@contextmanager
def _interrupted(seconds: float) -> Iterator[None]:
    """Raise `_TimeIsUp` in this thread after some seconds, in the middle of a regular expression too."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, leave)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
