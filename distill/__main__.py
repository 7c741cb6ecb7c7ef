"""`python -m biomlm.distill` is `biomlm distill`."""

from biomlm.core.cli import room_main

room_main("distill")
