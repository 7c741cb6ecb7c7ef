"""What was recorded at the commit before the house was moved (tests/data/goldens/README.md), laid out to be gone on with."""

import gzip
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

GOLDENS = Path(__file__).parents[1] / "data" / "goldens"
MTIME = 1_700_000_000  # of all raw files, as make_goldens.py set it: a launch remembers them by size and time


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of what was recorded."""
    return GOLDENS


@pytest.fixture(scope="session")
def recorded() -> dict[str, Any]:
    """`world.json`: machine, command lines, and what training came to."""
    facts: dict[str, Any] = json.loads((GOLDENS / "world.json").read_text())
    return facts


@pytest.fixture(scope="session")
def same_machine(recorded: dict[str, Any]) -> bool:
    """Whether sums of floats are to be the same to the bit: this is the processor and torch that the goldens were made with."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    here = {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability(), "processor": cpu}
    return here == recorded["machine"]


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As the goldens were made; the commands that a launch starts are told by the environment."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Path:
    """A copy of the recorded world as the working folder: `raw/`, `done/<stage>`, `cut/<stage>`, all by relative paths."""
    folder = tmp_path / "world"
    shutil.copytree(GOLDENS / "world", folder)
    for path in (folder / "raw").rglob("*"):
        os.utime(path, (MTIME, MTIME))
    monkeypatch.chdir(folder)
    return folder


Same = Callable[[Path, Path], None]


@pytest.fixture
def same_file(same_machine: bool) -> Same:
    """Assert that two files hold the same: bytes, what is compressed, or tensors; these nearly on another machine."""

    def check(a: Path, b: Path) -> None:
        if a.suffix == ".gz":
            assert gzip.decompress(a.read_bytes()) == gzip.decompress(b.read_bytes()), a
        elif a.suffix != ".safetensors" or same_machine:
            assert a.read_bytes() == b.read_bytes(), a
        else:
            tensors, others = load_file(a), load_file(b)
            assert tensors.keys() == others.keys()
            for name, tensor in tensors.items():
                torch.testing.assert_close(tensor, others[name], rtol=1e-3, atol=1e-4)

    return check
