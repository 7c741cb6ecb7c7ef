"""The parts of the GPU benchmark as tests, on a machine that has one; `tests/benchmarks` runs them at toy size on a CPU."""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = (
    "attention",
    "dropout",
    "loss",
    "sync",
    "loop",
    "profile",
    "fp16",
    "resume",
    "distillation",
    "optimisers",
    "recompute",
)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),  # of torch's own on a device
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("part", PARTS)
def test_it_holds(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "plain", raising=False)
    import gpu
    from gpu_common import Settings

    from biomlm.model.device import choose

    settings = Settings(choose("auto"), ["base"], tokens=4096, length=256, vocab_size=8192, dropout=0.1, seconds=0.5)
    lines = list(gpu.run_part(part, settings))
    assert lines
    assert not [line for line in lines if line.problem]
