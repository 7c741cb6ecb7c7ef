"""Nothing that computes on a GPU makes a tensor elsewhere; see fake_gpu.py, which tries it without one."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fake_gpu.py")


@cache
def found() -> dict[str, str]:
    """Case → what it raised."""
    ended = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(line) for line in ended.stdout.splitlines())


@pytest.mark.parametrize("kind", ["pretrain", "head", "teacher", "distill", "finetune"])
def test_what_computes_stays_on_its_device(kind: str) -> None:
    backend = pytest.importorskip("torch.utils.backend_registration")
    if not hasattr(backend, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch knows no devices made in Python")
    cases = {name: problem for name, problem in found().items() if name.startswith(kind)}
    assert cases
    assert not {name: problem.strip().splitlines()[-1] for name, problem in cases.items() if problem}
