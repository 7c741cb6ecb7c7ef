"""First step of the pipeline: read a task's inputs with the reader of their source, and tell how far it is."""

import time
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers.base import BaseDiskReader

from biolm.corpus.document import DROPPED
from biolm.corpus.inputs import Input
from biolm.corpus.jats import JatsReader
from biolm.corpus.notes import NotesReader
from biolm.corpus.plain import TextReader
from biolm.corpus.pubmed import PubMedReader

BEAT = 0.5  # seconds between two entries of a task's progress


class ReadTask(PipelineStep):  # type: ignore[misc]
    """Yields the documents of task `rank`, in the order of its inputs.

    Args:
        tasks: The inputs of every task.
        work: The working folder; a task writes how many bytes it has read to `progress/`.
        salt: Key of the patients' hashes.
        columns: Columns of the notes' table that are not MIMIC's.
        tables: Include the cells of articles' tables.
    """

    type, name = "📖 - READER", "biolm"

    def __init__(self, tasks: list[list[Input]], work: str, salt: str, columns: dict[str, str], tables: bool):
        super().__init__()
        self.tasks, self.work, self.salt, self.columns, self.tables = tasks, work, salt, columns, tables

    def reader(self, item: Input) -> BaseDiskReader:
        """The reader for one input."""
        folder: Any = str(Path(item.path).absolute().parent)
        if item.source == "pubmed":
            return PubMedReader(folder)
        if item.source == "pmc":
            return JatsReader(folder, tables=self.tables)
        if item.source == "notes":
            return NotesReader(folder, salt=self.salt, columns=self.columns)
        return TextReader(folder)

    def run(self, _data: DocumentsPipeline, rank: int = 0, _world_size: int = 1) -> DocumentsPipeline:
        """Read the inputs of task `rank`."""
        beat = Path(self.work) / "progress" / f"{rank:05d}"
        done, said = 0, time.monotonic()
        for item in self.tasks[rank]:
            for document in self.reader(item).read_file(Path(item.path).name):
                yield document
                if time.monotonic() - said > BEAT:
                    said = time.monotonic()
                    beat.write_text(str(done))
            done += item.size
            beat.write_text(str(done))


class MarkShort(PipelineStep):  # type: ignore[misc]
    """Marks documents that have too little text.

    Args:
        min_words: Fewest words of a document.
    """

    type, name = "🔻 - FILTER", "short"

    def __init__(self, min_words: int):
        super().__init__()
        self.min_words = min_words

    def run(self, data: DocumentsPipeline, _rank: int = 0, _world_size: int = 1) -> DocumentsPipeline:
        """Pass every document on, marked or not."""
        for document in data:
            if DROPPED not in document.metadata and self._short(document):
                document.metadata[DROPPED] = f"fewer than {self.min_words} words" if document.text else "no text"
            yield document

    def _short(self, document: Document) -> bool:
        return len(document.text.split()) < self.min_words
