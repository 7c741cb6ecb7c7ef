"""Where the ranks of a run meet: a store of short texts, through which they tell each other addresses, counts and decisions.

Ranks of one machine meet in a file of a folder that only their user may enter, and talk over the loopback interface: nothing listens on
the network. Those of several machines meet at a port that rank 0 opens at the one address that its launcher names, and talk over that
address's interface. Whoever reaches that port can read and write the store, but nothing of it is unpickled (docs/engines.md). Under
torchrun its agent keeps the store.
"""

import errno
import fcntl
import ipaddress
import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch._C._distributed_c10d import FileStore, PrefixStore, Store, TCPStore
from torch.distributed import DistStoreError
from torch.distributed.rendezvous import rendezvous

from biomlm.core.errors import ConfigError, TemporaryError

POLL = 0.02  # seconds between looks; waiting inside the store would keep signals from being answered
LOOPBACK = "lo"
SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface
COME = "come"  # how many ranks have


def meet(rank: int, size: int, master: tuple[str, int], *, file: str, patience: float) -> Store:
    """Open the store of a run's ranks, and wait until all of them have.

    Args:
        rank: This one.
        size: Ranks in all.
        master: Host and port of rank 0, unless there is a file.
        file: The file that they meet in if they are all on one machine; a bare name is put into this user's own folder.
        patience: Seconds to wait for the others.

    Raises:
        ConfigError: Rank 0 cannot listen at that address.
        TemporaryError: Ranks did not come.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        store, _, _ = next(rendezvous("env://", rank, size, timeout=timedelta(seconds=patience)))
    elif file:
        _use_interface(LOOPBACK)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", LOOPBACK)
        store = FileStore(file if Path(file).is_absolute() else str(private_folder() / file), size)
    else:
        store = _tcp_store(rank, size, master, patience)
    # torchrun's agent keeps its store when it starts ranks again: broadcasts of an earlier start must not be read again.
    store = PrefixStore(f"life {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    store.set(f"{COME}/{rank}", "1")
    store.add(COME, 1)
    try:
        wait_until(lambda: store.add(COME, 0) >= size, patience)
    except DistStoreError:
        late = ", ".join(str(other) for other in range(size) if not store.check([f"{COME}/{other}"]))
        raise TemporaryError(
            f"rank {late} of {size} has not come in {patience:g} s", remedy="The same command starts it again."
        ) from None
    return store


def wait_until(condition: Callable[[], bool], patience: float) -> None:
    """Wait for a condition, such that signals are answered meanwhile.

    Raises:
        DistStoreError: It was not met in that many seconds.
    """
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise DistStoreError(f"waited {patience:g} s")
        time.sleep(POLL)


def private_folder() -> Path:
    """Return a folder for this user's short-lived files, on this machine, which nobody else may enter.

    Raises:
        ConfigError: Somebody else has put something in its place.
    """
    folder = Path(tempfile.gettempdir()) / f"biomlm-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigError(
            "others may write here, or it is not a folder of this user's",
            file=folder,
            remedy="Remove it, or let TMPDIR name another folder.",
        )
    return folder


def _tcp_store(rank: int, size: int, master: tuple[str, int], patience: float) -> Store:
    host, port = master
    timeout = timedelta(seconds=patience)
    if rank:
        try:
            wait_until(lambda: _answers(host, port), patience)
        except DistStoreError:
            raise TemporaryError(
                f"rank 0 of {size} has not come to {host}:{port} in {patience:g} s",
                remedy="The same command starts it again.",
            ) from None
        with socket.create_connection(master) as line:
            _use_interface(_interface_of(line.getsockname()[0]))
        return TCPStore(host, port, size, False, timeout, wait_for_workers=False)
    listening = _listen(host, port)
    _use_interface(_interface_of(listening.getsockname()[0]))
    port = listening.getsockname()[1]
    return TCPStore(host, port, size, True, timeout, wait_for_workers=False, master_listen_fd=listening.detach())


def _listen(host: str, port: int) -> socket.socket:
    """Open a port at an address of this machine, and at no other.

    Raises:
        ConfigError: It is none of this machine's, or one that other machines do not reach, or taken.
    """
    listening = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if ipaddress.ip_address(address[0]).is_loopback and int(os.environ.get("SLURM_STEP_NUM_NODES", "1")) > 1:
            raise ConfigError(
                f"{host} is {address[0]} on its own machine, which other machines do not reach",
                remedy="Name it by its address: MASTER_ADDR (--slurm.setup 'export MASTER_ADDR=…').",
            )
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(socket.SOMAXCONN)
    except OSError as error:
        if listening is not None:
            listening.close()
        taken = error.errno == errno.EADDRINUSE
        remedy = (
            "Give another port by MASTER_PORT." if taken else "Name rank 0's machine by its address in MASTER_ADDR."
        )
        raise ConfigError(f"rank 0 cannot listen at {host}:{port} ({error.strerror})", remedy=remedy) from None
    return listening


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def _use_interface(name: str) -> None:
    """Have gloo listen on one interface alone, unless the user has chosen one."""
    if name:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _interface_of(address: str) -> str:
    """Return the name of the interface with an IPv4 address; nothing if there is none."""
    if ipaddress.ip_address(address).is_loopback:
        return LOOPBACK
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asks:
        for _, name in socket.if_nameindex():
            question: Any = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(asks.fileno(), SIOCGIFADDR, question)
            except OSError:  # an interface without an IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return ""
