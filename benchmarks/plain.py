"""Lets a benchmark run from a checkout in a plain PyTorch image, where neither biomlm nor what its other rooms need is installed."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

SOURCES = Path(__file__).resolve().parents[1] / "src"


def missing(name: str) -> bool:
    """Whether a package is not installed."""
    try:
        import_module(name)
    except ImportError:
        return True
    return False


if missing("biomlm"):
    sys.path.insert(0, str(SOURCES))
if missing("orjson"):  # which configurations are saved with: no benchmark of a training step does that
    sys.modules["orjson"] = ModuleType("orjson")
