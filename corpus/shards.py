"""From parts and decisions to the output: every kept document into its split, every other one counted."""

import gzip
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from biolm.core.files import atomic_file, write_json
from biolm.corpus.document import DROPPED
from biolm.corpus.parts import keys, part_folder
from biolm.corpus.resolve import REASONS, SET_ASIDE, TRAIN, VALID
from biolm.corpus.streams import compressed

LEVEL = 5  # gzip's level
FOLDERS = {TRAIN: "train", VALID: "valid"}
TOTALS = ("documents", "words", "characters", "sections", "sentences", "links")


class WriteShards(PipelineStep):  # type: ignore[misc]
    """Writes a task's part as shards of the splits, and what it counted beside it.

    Args:
        out: The output folder.
        work: The working folder, with `codes/` and `shards.json` from the decisions.
        numbers: For each task: split folder → file of the part → number of the shard.
        keep_dropped: Write what is dropped to `dropped/`, with the reason in its metadata.
    """

    type, name = "✍ - WRITER", "shards"

    def __init__(self, out: str, work: str, numbers: list[dict[str, dict[int, int]]], keep_dropped: bool):
        super().__init__()
        self.out, self.work, self.numbers, self.keep_dropped = out, work, numbers, keep_dropped

    def run(self, _data: DocumentsPipeline, rank: int = 0, _world_size: int = 1) -> DocumentsPipeline:
        """Write the shards of task `rank`; yield nothing."""
        codes = np.load(codes_path(self.work, rank), allow_pickle=False)
        files = keys(self.work, rank)["file"]
        counts: dict[str, Any] = {"kept": {}, "dropped": {}}
        for path in sorted(part_folder(self.work, rank).glob("*.jsonl.gz")):
            file = int(path.name[:5])
            numbers = {folder: of_file[file] for folder, of_file in self.numbers[rank].items() if file in of_file}
            self._write(path, codes[files == file], numbers, counts)
        write_json(counts_path(self.work, rank), counts)
        yield from ()

    def _write(self, part: Path, codes: Any, numbers: dict[str, int], counts: dict[str, Any]) -> None:
        with _opened(self.out, numbers) as shards, gzip.open(part, "rb") as lines:
            for line, code in zip(lines, codes, strict=True):
                document = orjson.loads(line)
                source = document["metadata"]["source"]
                if code in FOLDERS:
                    shards[FOLDERS[code]].write(line)
                    splits = counts["kept"].setdefault(source, {})
                    _count(document, splits.setdefault(FOLDERS[code], dict.fromkeys(TOTALS, 0)))
                    continue
                if code != SET_ASIDE:
                    reason = document["metadata"][DROPPED] = REASONS[int(code)]
                    counts["dropped"].setdefault(source, Counter())[reason] += 1
                if self.keep_dropped:
                    shards["dropped"].write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))


def codes_path(work: str | Path, task: int) -> Path:
    """The decisions about a part."""
    return Path(work) / "codes" / f"{task:05d}.npy"


def counts_path(work: str | Path, task: int) -> Path:
    """What was counted while a part's shards were written."""
    return Path(work) / "counts" / f"{task:05d}.json"


def number(codes: list[Any], files: list[Any], keep_dropped: bool) -> list[dict[str, dict[int, int]]]:
    """Number the shards of every split without gaps: for each task, split → file of the part → number.

    Args:
        codes: For each task, the decision about each document.
        files: For each task, the file of the part that holds it.
        keep_dropped: Dropped documents have shards, too.
    """
    following: Counter[str] = Counter()
    numbers: list[dict[str, dict[int, int]]] = []
    for of_task, of_file in zip(codes, files, strict=True):
        found: dict[str, dict[int, int]] = {}
        for folder, chosen in (("train", of_task == TRAIN), ("valid", of_task == VALID), ("dropped", of_task > VALID)):
            if folder == "dropped" and not keep_dropped:
                continue
            for file in np.unique(of_file[chosen]):
                found.setdefault(folder, {})[int(file)] = following[folder]
                following[folder] += 1
        numbers.append(found)
    return numbers


def _count(document: dict[str, Any], totals: dict[str, int]) -> None:
    text, meta = document["text"], document["metadata"]
    for name, value in zip(
        TOTALS,
        (1, len(text.split()), len(text), len(meta["sections"]), len(meta["sentences"]), len(meta["links"])),
        strict=True,
    ):
        totals[name] += value


@contextmanager
def _opened(out: str, numbers: dict[str, int]) -> Iterator[dict[str, IO[bytes]]]:
    """The shards of one part: folder → file, all put in place at the end."""
    with ExitStack() as stack:
        files = {}
        for folder, number in numbers.items():
            place = stack.enter_context(atomic_file(Path(out) / folder / f"{number:05d}.jsonl.gz"))
            files[folder] = stack.enter_context(compressed(place, LEVEL))
        yield files
