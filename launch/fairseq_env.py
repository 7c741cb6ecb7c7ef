"""`biomlm-fairseq-env [DIR]`: make the environment in which the real fairseq runs (docs/fairseq.md)."""

import os
import sys
from pathlib import Path
from typing import NoReturn

from biomlm.core.config import fairseq_env

SCRIPT = Path(__file__).with_suffix(".sh")


def main() -> NoReturn:
    """Replace this process by the shell script, which takes virtualenv from this Python."""
    places = {"PYTHON": sys.executable, "DEFAULT": str(fairseq_env())}
    os.execvpe("sh", ["sh", str(SCRIPT), *sys.argv[1:]], os.environ | places)
