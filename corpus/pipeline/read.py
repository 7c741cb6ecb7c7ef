"""First step of the pipeline: read a task's inputs with the reader of their source, and record how far it is."""

import time
from pathlib import Path
from typing import Any

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers.base import BaseDiskReader

from biomlm.corpus.pipeline.inputs import Input
from biomlm.corpus.salt import Salt
from biomlm.corpus.sources import BY_NAME
from biomlm.corpus.text.document import PLACE

BEAT = 0.5  # seconds between two entries of a task's progress


class ReadTask(PipelineStep):  # type: ignore[misc]
    """Yield the documents of task `rank`, in the order of its inputs.

    Args:
        tasks: The inputs of every task.
        work: The working folder; a task writes how many bytes it has read to `progress/`.
        options: Arguments of the readers, by source.
        salt: Where the salt of the readers stands that hide patients.
    """

    type, name = "📖 - READER", "biomlm"

    def __init__(self, tasks: list[list[Input]], work: str, options: dict[str, dict[str, Any]], salt: Salt):
        super().__init__()
        self.tasks, self.work, self.options, self.salt = tasks, work, options, salt
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
            for number, document in enumerate(reader.read_file(Path(item.path).name), start=1):
                document.metadata["source"] = item.source
                document.metadata[PLACE] = f"{item.label}:{number}"
                yield document
                if time.monotonic() - last_beat > BEAT:
                    last_beat = time.monotonic()
                    beat.write_text(str(done + reader.raw.tell()))
            done += item.size
            beat.write_text(str(done))
