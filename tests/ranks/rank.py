"""One rank of a run, in a process forked from a server that has imported all there is to import (see conftest.py)."""

import faulthandler
import os
import runpy
import sys
from pathlib import Path

import coverage

from biomlm.core import cli

GIVEN = globals()  # ENV, ARGV, LOG, PATCH and COVERAGE are handed in by runpy

os.environ.update(GIVEN["ENV"])
log = os.open(GIVEN["LOG"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.dup2(log, 1)
os.dup2(log, 2)
faulthandler.dump_traceback_later(110, file=sys.stderr)
root = Path(__file__).parents[2]
os.chdir(root)
measured = coverage.Coverage(GIVEN["COVERAGE"] or None, data_suffix=True, config_file=str(root / "pyproject.toml"))
if GIVEN["COVERAGE"]:
    measured.start()
if GIVEN["PATCH"]:
    runpy.run_path(str(Path(__file__).with_name(GIVEN["PATCH"])))
code = cli.run(GIVEN["ARGV"])
if GIVEN["COVERAGE"]:
    measured.stop()
    measured.save()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
