"""One rank of a run, in a process forked from a server that has imported all there is to import (see conftest.py)."""

import os
import runpy
import sys
from pathlib import Path

ENV: dict[str, str]
ARGV: list[str]
LOG: str
PATCH: str

os.environ.update(ENV)
import faulthandler
log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.dup2(log, 1)
os.dup2(log, 2)
faulthandler.dump_traceback_later(25, file=sys.stderr)
if PATCH:
    runpy.run_path(str(Path(__file__).with_name(PATCH)))

from biolm.core import cli  # noqa: E402

code = cli.run(ARGV)
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
