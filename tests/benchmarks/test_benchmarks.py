"""Benchmarks run rarely: here each is imported, and the GPU's runs at toy size on the CPU, so that they work the day they are wanted."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    "--tokens",
    "256",
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
def broken(_):
    yield gpu.Line("loss", "first")
    raise RuntimeError("no such kernel")
gpu.PARTS["loss"] = broken
gpu.main()
"""


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_part_that_fails_leaves_the_others_lines(tmp_path: Path) -> None:
    out, path = tmp_path / "lines.jsonl", f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
    command = [sys.executable, "-c", path + FAILS, *TOY, "--parts", "attention", "loss", "sync", "--out", str(out)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.strip().endswith("1 lines tell of a failure")
    lines = lines_of(out)
    assert [line["problem"] for line in lines if line["problem"]] == ["RuntimeError: no such kernel"]
    assert {"parity", "loss", "sync"} <= {line["part"] for line in lines}
    assert lines[-1]["part"] == "sync"


def test_parts_that_there_is_no_time_for_are_left_out(tmp_path: Path) -> None:
    out = tmp_path / "lines.jsonl"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *TOY, "--parts", "loss", "--minutes", "0", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    assert [line["what"] for line in lines_of(out)] == ["CPU", "left out"]


def test_every_part_of_the_gpu_benchmark_runs_at_toy_size_in_a_plain_image(tmp_path: Path) -> None:
    """Where nothing but torch, transformers, safetensors and rich is installed."""
    out = tmp_path / "lines.jsonl"
    command = [sys.executable, "-c", PLAIN, str(BENCHMARKS / "gpu.py"), *TOY, "--out", str(out)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    lines = lines_of(out)
    assert ended.returncode == 0, [line for line in lines if line["problem"]]
    took = [line["part"] for line in lines if line["what"] == "took"]
    assert took == ["attention", "dropout", "loss", "sync", "loop", "profile", "transformers", "fp16", "resume", "distillation",
                    "optimisers", "recompute"]  # fmt: skip
    (resumed,) = [line["figures"] for line in lines if line["part"] == "resume" and line["figures"].get("of")]
    assert resumed["same bits"]
    for line in lines:
        assert line["part"] not in ("loop", "transformers") or line["what"] == "took" or line["figures"]["tokens/s"] > 0
