"""`biomlm` with patch_late.py, for launchers that start files."""

import runpy
from pathlib import Path

from biomlm.core import cli

runpy.run_path(str(Path(__file__).with_name("patch_late.py")))
cli.main()
