"""One rank of a run, in a process forked from a server that has imported all there is to import (see conftest.py)."""

import faulthandler
import os
import runpy
import sys
from pathlib import Path

from biolm.core import cli

GIVEN = globals()  # ENV, ARGV, LOG and PATCH are handed in by runpy

os.environ.update(GIVEN["ENV"])
log = os.open(GIVEN["LOG"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.dup2(log, 1)
os.dup2(log, 2)
faulthandler.dump_traceback_later(110, file=sys.stderr)
if GIVEN["PATCH"]:
    runpy.run_path(str(Path(__file__).with_name(GIVEN["PATCH"])))
code = cli.run(GIVEN["ARGV"])
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
