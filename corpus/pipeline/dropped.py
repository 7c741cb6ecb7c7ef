"""The list of what was dropped, `DOCS/dropped.jsonl.gz`: `{"id", "source", "reason", "instead"}`, in the order of the input.

`instead` is the id of the document that is kept in the place of a duplicate or an older version; it may be dropped in turn, with a line of
its own. A task knows the ids of its own documents only, so it writes rows, and the ids of those rows that others name; they are joined
at the end.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from biomlm.core.files import atomic_file
from biomlm.corpus.pipeline.intermediate import aside_path, dropped_line
from biomlm.inputs.streams import compressed, open_lines

DROPPED_LIST = "dropped.jsonl.gz"
LEVEL = 5  # gzip's level
REMEDY = "Build the documents again."

Rows = npt.NDArray[np.int64]


def save_instead(work: Path, instead: Sequence[Rows]) -> None:
    """Give every task what is kept in the place of its documents, and which of its documents are named so.

    Args:
        work: The working folder.
        instead: For each task and document a row counted over all tasks, or -1.
    """
    edges = np.cumsum([0, *map(len, instead)])
    named = _named(instead)
    for task, (start, stop) in enumerate(pairwise(edges)):
        own = named[(named >= start) & (named < stop)] - start
        for path, rows in ((_instead_path(work, task), instead[task]), (_named_path(work, task), own)):
            with atomic_file(path) as tmp, tmp.open("wb") as file:
                np.save(file, rows)


def _named(instead: Sequence[Rows]) -> Rows:
    together = np.concatenate([np.zeros(0, np.int64), *instead])
    return np.unique(together[together >= 0])


class DropWriter:
    """Write down what one task drops, and the ids of its documents that others give way to.

    Args:
        work: The working folder.
        task: Its number.
    """

    def __init__(self, work: str, task: int):
        self.paths = [_drops_path(Path(work), task), _ids_path(Path(work), task)]
        self.instead = np.load(_instead_path(Path(work), task), allow_pickle=False)
        self.named = set(np.load(_named_path(Path(work), task), allow_pickle=False).tolist())
        self.stack = ExitStack()

    def __enter__(self) -> "DropWriter":
        self.drops, self.ids = (
            self.stack.enter_context(self.stack.enter_context(atomic_file(path)).open("wb")) for path in self.paths
        )
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    def see(self, row: int, id: str) -> None:
        """Note the id of a document, which comes in the order of the rows, if another gave way to it."""
        if row in self.named:
            self.ids.write(orjson.dumps(id) + b"\n")

    def drop(self, row: int, *, id: str, source: str, reason: str) -> None:
        """Note a document that is dropped."""
        self.drops.write(orjson.dumps([id, source, reason, int(self.instead[row])]) + b"\n")


def write_dropped(out: Path, work: Path, tasks: int) -> None:
    """Write the list, from what both passes noted: of each task first what its filters put aside, then what was decided.

    There is none for a build that an earlier version began, whose tasks noted nothing.
    """
    if not all(path.exists() for task in range(tasks) for path in (aside_path(work, task), _drops_path(work, task))):
        return
    named = _named([np.load(_instead_path(work, task), allow_pickle=False) for task in range(tasks)])
    ids = [line for task in range(tasks) for line in _ids_path(work, task).read_bytes().splitlines()]
    with atomic_file(out / DROPPED_LIST) as tmp, compressed(tmp, LEVEL) as file:
        for task in range(tasks):
            file.write(aside_path(work, task).read_bytes())
            with _drops_path(work, task).open("rb") as lines:
                for line in lines:
                    id, source, reason, row = orjson.loads(line)
                    instead = orjson.loads(ids[np.searchsorted(named, row)]) if row >= 0 else None
                    file.write(dropped_line(id, source, reason, instead))


def read_dropped(docs: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the list; nothing for a folder of a version that wrote none."""
    path = Path(docs) / DROPPED_LIST
    if path.exists():
        with path.open("rb") as file:
            yield from map(orjson.loads, open_lines(file, remedy=REMEDY))


def _instead_path(work: Path, task: int) -> Path:
    return work / "instead" / f"{task:05d}.npy"


def _named_path(work: Path, task: int) -> Path:
    return work / "named" / f"{task:05d}.npy"


def _drops_path(work: Path, task: int) -> Path:
    return work / "drops" / f"{task:05d}.jsonl"


def _ids_path(work: Path, task: int) -> Path:
    return work / "ids" / f"{task:05d}.jsonl"
