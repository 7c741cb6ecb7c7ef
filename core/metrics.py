"""Write `metrics.jsonl` and TensorBoard: one record per measured step.

After a resume, records past the checkpoint are cut off, so that the file of an interrupted run equals that of an uninterrupted one
(but for wall-clock figures).
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import orjson

from biomlm.core.files import atomic_file

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NAME = "metrics.jsonl"


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """Read every record of a run folder, oldest first; a half-written last line (a killed run) is left out."""
    path = Path(run) / NAME
    if not path.exists():
        return []
    return [orjson.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


class MetricsWriter:
    """Appends records to a run folder.

    Args:
        run: The run folder.
        step: The checkpoint's step that the run goes on from; records after it are dropped.
    """

    def __init__(self, run: str | Path, step: int = 0):
        self.run = run = Path(run)
        kept = [record for record in read_metrics(run) if record["step"] <= step]
        with atomic_file(run / NAME) as tmp:
            tmp.write_bytes(b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in kept))
        self.file = (run / NAME).open("ab")
        self.first, self.boards = step + 1, dict[str, "SummaryWriter"]()

    def write(self, step: int, split: str, values: Mapping[str, float | str]) -> None:
        """Record the values of one step: `split` is `train`, `valid` or `guard`; words are left out of TensorBoard."""
        self.file.write(orjson.dumps({"step": step, "split": split, **values}, option=orjson.OPT_APPEND_NEWLINE))
        self.file.flush()
        for name, value in values.items():
            if not isinstance(value, str):
                self._board(split).add_scalar(name, value, step)

    def _board(self, split: str) -> "SummaryWriter":
        """Open a split's folder: TensorBoard draws values of one name in several folders as lines of one plot."""
        if split not in self.boards:
            # seconds to import, which those who only read metrics need not wait for
            from torch.utils.tensorboard import SummaryWriter

            self.boards[split] = SummaryWriter(str(self.run / "tensorboard" / split), purge_step=self.first)
        return self.boards[split]

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        for board in self.boards.values():
            board.close()
