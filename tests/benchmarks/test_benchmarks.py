"""Benchmarks run rarely: here each is imported, and the GPU's runs at toy size on the CPU, so that they work the day they are wanted."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_it_can_be_imported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for their module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("biomlm"):
            raise
        pytest.skip(f"its peer {error.name} is not installed")
    assert module.__doc__


PLAIN = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        bare = not any(folder.endswith("src") for folder in sys.path)
        if name in ("orjson", "jsonargparse", "datatrove") or (name == "biomlm" and bare):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


TOY = [
    "--sizes",
    "tiny",
    "--rows",
    "2",
    "--length",
    "32",
    "--vocab_size",
    "300",
    "--seconds",
    "0",
    "--precision",
    "fp32",
]
FAILS = """
import gpu
def theirs(*_):
    raise RuntimeError("no such kernel")
gpu.theirs = theirs
gpu.main()
"""


def test_a_side_that_fails_leaves_the_others_lines(tmp_path: Path) -> None:
    out, path = tmp_path / "table.json", f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
    ended = subprocess.run(
        [sys.executable, "-c", path + FAILS, *TOY, "--json", str(out)], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.strip().endswith("2 sides failed")
    table = json.loads(out.read_text())
    assert [row["side"] for row in table["rows"]] == ["biomlm", "biomlm, mixed"]
    assert {(row["side"], row["problem"]) for row in table["failed"]} == {
        (side, "RuntimeError: no such kernel") for side in ("transformers", "transformers, mixed")
    }


def test_the_gpu_benchmark_at_toy_size_in_a_plain_image(tmp_path: Path) -> None:
    """Where nothing but torch and transformers is installed."""
    out = tmp_path / "table.json"
    command = [sys.executable, "-c", PLAIN, str(BENCHMARKS / "gpu.py"), *TOY, "--json", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    rows = json.loads(out.read_text())["rows"]
    assert {row["side"] for row in rows} >= {"biomlm", "transformers", "biomlm, mixed", "transformers, mixed"}
    assert all(0 < row["share_of_measured"] < 1.2 and row["tokens_per_second"] > 0 for row in rows)
