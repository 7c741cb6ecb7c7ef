"""Lets a benchmark run from a checkout in a plain PyTorch image, where neither biomlm nor what its other rooms need is installed."""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

SOURCES = Path(__file__).resolve().parents[1] / "src"
NEW_LINE, INDENT, SORTED = 1, 2, 4


def missing(name: str) -> bool:
    """Whether a package is not installed."""
    try:
        import_module(name)
    except ImportError:
        return True
    return False


def dumps(value: Any, option: int = 0) -> bytes:
    """As orjson's, for what checkpoints and metrics hold."""
    text = json.dumps(value, sort_keys=bool(option & SORTED), indent=2 if option & INDENT else None)
    return (text + "\n" * bool(option & NEW_LINE)).encode()


def orjson() -> ModuleType:
    """A stand-in for that package, which is compiled."""
    module = ModuleType("orjson")
    options = {
        "OPT_APPEND_NEWLINE": NEW_LINE,
        "OPT_INDENT_2": INDENT,
        "OPT_SORT_KEYS": SORTED,
        "OPT_SERIALIZE_NUMPY": 0,
    }
    vars(module).update(dumps=dumps, loads=json.loads, JSONDecodeError=json.JSONDecodeError, **options)
    return module


if missing("biomlm"):
    sys.path.insert(0, str(SOURCES))
if missing("orjson"):
    sys.modules["orjson"] = orjson()
