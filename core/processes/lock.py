"""Let one command at a time write to an output folder: `.lock` in it names the process that is running there.

The lock is the kernel's, so it ends with its process, however that ends, and no child inherits it. It reaches other machines where the file
system passes locks on (NFS, Lustre, GPFS). A machine that goes down may leave its lock there for a while: a SLURM job that was requeued
recognizes the lock of its own earlier run and takes over.
"""

import errno
import fcntl
import os
import socket
import sys
from pathlib import Path

import orjson

from biomlm.core.errors import MismatchError, UnsafeFileError

NAME = ".lock"
TAKEN = (errno.EACCES, errno.EAGAIN)

_held: dict[Path, int] = {}  # folder → descriptor of its locked file
os.register_at_fork(after_in_child=_held.clear)


def hold(folder: str | Path, *, wait: bool = False) -> None:
    """Lock a folder until `release`, or the end of this process; it may be locked by this process already.

    Args:
        folder: An existing folder.
        wait: Wait for another process instead of giving up.

    Raises:
        MismatchError: Another process has locked it.
        UnsafeFileError: A link stands in the place of the lock.
    """
    folder = Path(folder).resolve()
    if folder in _held:
        return
    path = folder / NAME
    while True:
        if path.is_symlink():
            raise UnsafeFileError("this is a link, not a lock", file=path, remedy="Remove it, or give another --out.")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_in_place(file, path):
                break
        except OSError as error:
            if error.errno not in TAKEN:
                print(
                    f"{folder}: no locks here ({error.strerror}): see that nothing else writes there", file=sys.stderr
                )
                break
            holder = _read(file)
            if not _is_own_earlier_run(holder):
                raise _refusal(folder, holder) from None
            path.unlink(missing_ok=True)
        os.close(file)
    os.ftruncate(file, 0)
    os.pwrite(file, orjson.dumps(_self()), 0)
    _held[folder] = file


def release(folder: str | Path | None = None) -> None:
    """Unlock a folder, or all that this process has locked."""
    for locked in [f for f in _held if folder is None or f == Path(folder).resolve()]:
        file = _held.pop(locked)
        if _is_in_place(file, locked / NAME):
            (locked / NAME).unlink()
        os.close(file)


def held() -> list[Path]:
    """The folders that this process holds."""
    return list(_held)


def _is_in_place(file: int, path: Path) -> bool:
    """Whether the file that was locked is still the one of that name: who held it before removes it."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _self() -> dict[str, object]:
    job, lives = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT", "0")
    return {"host": socket.gethostname(), "pid": os.getpid(), "job": job, "lives": int(lives)}


def _read(file: int) -> dict[str, object]:
    """Read who holds a file; nothing if that is just being written."""
    try:
        return dict(orjson.loads(os.pread(file, 4096, 0)))
    except (orjson.JSONDecodeError, TypeError, ValueError):
        return {}


def _is_own_earlier_run(holder: dict[str, object]) -> bool:
    """Whether the holder is this very job before SLURM put it back into the queue, which it does when all of it has ended."""
    own = _self()
    return bool(own["job"]) and holder.get("job") == own["job"] and holder.get("lives") != own["lives"]


def _refusal(folder: Path, holder: dict[str, object]) -> MismatchError:
    host, remedy = holder.get("host", "a host unknown"), "Wait for it or end it, or give another --out."
    if host != socket.gethostname():
        remedy += f" If that machine is down, remove {NAME} there."
    return MismatchError(
        f"process {holder.get('pid', 'unknown')} on {host} is at work in this folder", file=folder, remedy=remedy
    )
