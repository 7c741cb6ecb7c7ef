"""Pickles made to take memory: refused before they do, whatever they repeat; a storage that is asked for often is read once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from biomlm.convert.safe_load import torch_file
from biomlm.core.errors import UnsafeFileError

MB = 1 << 20


def get(i: int) -> bytes:
    return b"j" + i.to_bytes(4, "little")


def put(i: int) -> bytes:
    return b"r" + i.to_bytes(4, "little")


START = b"\x80\x02"
NUMBERS = b"".join(b"M" + i.to_bytes(2, "little") for i in range(20_000))
WIDE = b"(" + NUMBERS + b"l" + put(1) + b"0"  # a list of 20,000 numbers, memoized
TEXT = b"X" + (100_000).to_bytes(4, "little") + b"a" * 100_000 + put(2) + b"0X\x06\0\0\0latin1" + put(3) + b"0"
PAIR = b"(K\x01K\x02t" + put(4) + b"0(" + get(4) * 8000 + b"l" + put(5) + b"0"
HOSTILE = {
    "nested ordered dictionaries": START + WIDE + b"ccollections\nOrderedDict\n((" + get(1) * 8000 + b"ltR.",
    "sizes": START + WIDE + (b"ctorch\nSize\n" + get(1) + b"\x85R") * 4000 + b".",
    "sets": START + WIDE + (b"cbuiltins\nset\n" + get(1) + b"\x85R") * 4000 + b".",
    "encoded text": START + TEXT + (b"c_codecs\nencode\n" + get(2) + get(3) + b"\x86R") * 6000 + b".",
    "ordered dictionaries": START + PAIR + (b"ccollections\nOrderedDict\n" + get(5) + b"\x85R") * 20_000 + b".",
    "dictionaries": START + b"}" * 6_000_000 + b".",
    "inert objects": START + (b"cargparse\nNamespace\n)R") * 600_000 + b".",
    "lists": START + WIDE + b"](" * 2_000_000 + b".",
}
CHILD = """
import json, resource, sys
from biomlm.convert.safe_load import torch_file
from biomlm.core.errors import UserError
resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
before, taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
for file in sys.argv[1:]:
    try:
        torch_file.load(file)
    except UserError as error:
        taken[file] = [type(error).__name__, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10]
print(json.dumps(taken))
"""


def test_memory_is_bounded_by_the_file(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.pt" for name in HOSTILE}
    for name, file in files.items():
        file.write_bytes(HOSTILE[name])
    argv = [sys.executable, "-c", CHILD, *map(str, files.values())]
    taken = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    largest = 0
    for file in files.values():
        kind, peak = taken[str(file)]
        largest = max(largest, file.stat().st_size)  # the peak is that of all up to this one
        assert peak <= 3 * largest + 200 * MB, (file.name, peak >> 20)
        assert kind in ("UnsafeFileError", "CheckpointError"), file.name


def test_what_it_would_take_is_said(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(HOSTILE["sets"])
    with pytest.raises(UnsafeFileError, match=r"it would take over 2 times its size"):
        torch_file.load(tmp_path / "model.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_many_tensors_of_one_storage_share_it(zipped: bool, tmp_path: Path) -> None:
    rows = torch.arange(1001, dtype=torch.float32)
    torch.save(
        {"odd": torch.ones(3, dtype=torch.uint8), "rows": [rows[i:] for i in range(900)]},
        tmp_path / "a.pt",
        _use_new_zipfile_serialization=zipped,
    )
    read = torch_file.load(tmp_path / "a.pt")["rows"]
    assert all(torch.equal(row, rows[i:]) for i, row in enumerate(read))
    assert len({row.untyped_storage().data_ptr() for row in read}) == 1
