"""`python -m biolm.distill` is `biolm distill`."""

from biolm.core.cli import room_main

room_main("distill")
