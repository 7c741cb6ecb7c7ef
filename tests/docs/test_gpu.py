"""docs/gpu.md has the tables that `benchmarks/roofline.py` makes from today's counts."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tables_are_todays() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "roofline.py")]
    tables = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    for table in tables.strip().split("\n\n"):
        assert table in page, "run `python benchmarks/roofline.py` and put its tables there"
