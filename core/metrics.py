"""`metrics.jsonl` and TensorBoard: one record per measured step.

After a resume, records past the checkpoint are cut off, so that the file of an interrupted run equals that of an uninterrupted one
(but for wall-clock figures).
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from biolm.core.files import atomic_file

NAME = "metrics.jsonl"


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """Every record of a run folder, oldest first; a half-written last line (a killed run) is left out."""
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
        # seconds to import, which those who only read metrics need not wait for
        from torch.utils.tensorboard import SummaryWriter

        run = Path(run)
        kept = [record for record in read_metrics(run) if record["step"] <= step]
        with atomic_file(run / NAME) as tmp:
            tmp.write_bytes(b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in kept))
        self.file = (run / NAME).open("ab")
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, split: str, values: Mapping[str, float | str]) -> None:
        """Record the values of one step: `split` is `train`, `valid` or `guard`; words are left out of TensorBoard."""
        self.file.write(orjson.dumps({"step": step, "split": split, **values}, option=orjson.OPT_APPEND_NEWLINE))
        self.file.flush()
        for name, value in values.items():
            if not isinstance(value, str):
                self.board.add_scalar(f"{name}/{split}", value, step)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.board.close()
