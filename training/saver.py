"""Write checkpoints by a thread while the training goes on; what is in one is in `Trainer._checkpoint` and `Engine.state_tensors`.

The loop waits only until its tensors are copied to the host's memory (and for the save before, if that is still running). On several
ranks each may write its own rows into one folder, coordinated by files alone, and rank 0 renames it when every part is there.
"""

import threading
import time
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from biomlm.core import checkpoint
from biomlm.core.checkpoint import Checkpoint, Groups
from biomlm.core.files import fsync_path, read_json, write_json

LOOK = 0.02  # seconds between looks for the other ranks' parts


class Saver:
    """Writes checkpoints of one run, one at a time.

    Args:
        run: The run folder.
        keep: How many of the last checkpoints to keep.
        every: Keep those of every so many steps too; 0 for none.
        rank: Whose rows are written here.
        ranks: How many ranks write rows; 1 if rank 0 writes whole tensors.
        token: The same word on all ranks and another in every run of the program: part of the name of the folder that they share.
        patience: Seconds that rank 0 waits for the others' parts.
    """

    def __init__(
        self,
        run: Path,
        keep: int,
        every: int,
        *,
        rank: int = 0,
        ranks: int = 1,
        token: str = "0",
        patience: float = 1800,
    ):
        self.run, self.keep, self.every = run, keep, every
        self.rank, self.ranks, self.token, self.patience = rank, ranks, token, patience
        self.host: dict[tuple[str, str], Tensor] = {}  # the copies, reused: fresh memory costs more than the copying
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self.stalled = 0.0  # seconds that the loop was held up

    def save(self, snapshot: Checkpoint, *, wait: bool = False) -> None:
        """Write a checkpoint; its tensors may change as soon as this returns.

        Args:
            snapshot: What to write.
            wait: Return only when it is in its place.

        Raises:
            OSError: This save or the one before failed; the checkpoints before are whole.
        """
        start = time.perf_counter()
        self.finish()
        copied = Checkpoint(snapshot.step, self._copy(snapshot.tensors), snapshot.state)
        self.thread = threading.Thread(target=self._work, args=(copied,), name="saver")
        self.thread.start()
        if wait:
            self.finish()
        self.stalled += time.perf_counter() - start

    def check(self) -> None:
        """Raise the thread's error, once."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def finish(self) -> None:
        """Wait for the save that is running, and raise its error."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        self.check()

    def _copy(self, groups: Groups) -> Groups:
        copies = {
            group: {n: self._onto_host((group, n), t) for n, t in named.items()} for group, named in groups.items()
        }
        for device in {t.device for named in groups.values() for t in named.values() if t.device.type == "cuda"}:
            torch.cuda.synchronize(device)  # once, behind all copies
        return copies

    def _onto_host(self, key: tuple[str, str], tensor: Tensor) -> Tensor:
        buffer = self.host.get(key)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            pinned = tensor.device.type == "cuda"  # page-locked memory, which a GPU writes into by itself
            buffer = self.host[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
        return buffer.copy_(tensor.detach(), non_blocking=True)

    def _work(self, snapshot: Checkpoint) -> None:
        try:
            if self.ranks == 1:
                checkpoint.save(self.run, snapshot, self.keep, self.every)
            else:
                self._save_part(snapshot)
        except BaseException as error:  # it belongs to the loop
            self.error = error

    def _save_part(self, snapshot: Checkpoint) -> None:
        path = checkpoint.path_of(self.run, snapshot.step)
        tmp = path.with_name(f".{path.name}.{self.token}.tmp")
        tmp.mkdir(parents=True, exist_ok=True)
        hashes = checkpoint.write_groups(tmp, snapshot.tensors, self.rank, self.ranks)
        for name in hashes:
            fsync_path(tmp / name)
        write_json(tmp / f"part_{self.rank}.json", hashes)
        if self.rank == 0:
            self._put_in_place(snapshot, path, tmp)

    def _put_in_place(self, snapshot: Checkpoint, path: Path, tmp: Path) -> None:
        """Wait for all parts, list their hashes, and make the folder a checkpoint."""
        parts = [tmp / f"part_{rank}.json" for rank in range(self.ranks)]
        deadline = time.monotonic() + self.patience
        while not all(part.exists() for part in parts):
            if time.monotonic() > deadline:
                late = next(rank for rank, part in enumerate(parts) if not part.exists())
                raise TimeoutError(f"rank {late} did not write its part of checkpoint {snapshot.step}")
            time.sleep(LOOK)
        hashes = {name: str(digest) for part in parts for name, digest in read_json(part).items()}
        for part in parts:
            part.unlink()
        checkpoint.write_state(tmp, snapshot, hashes)
        if path.exists():
            checkpoint.remove(self.run, snapshot.step)
        tmp.rename(path)
        fsync_path(path.parent)
        checkpoint.prune(self.run, self.keep, self.every)

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        elif self.thread is not None:
            self.thread.join()
