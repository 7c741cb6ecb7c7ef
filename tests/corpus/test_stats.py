"""`corpus stats` in a pipe whose reader leaves early."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from biolm.core.cli import run as biolm


def test_head_is_no_fault(tmp_path: Path, make: Any) -> None:
    (tmp_path / "p.xml").write_bytes(make.citations(*(make.plain(i) for i in range(1, 30))))
    assert biolm(["corpus", "build", "--pubmed", str(tmp_path / "p.xml"), "--out", str(tmp_path / "docs")]) == 0
    command = f"{sys.executable} -m biolm.corpus stats {tmp_path / 'docs'} | true"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert result.stderr == ""
