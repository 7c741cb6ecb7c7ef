"""`python -m biolm.corpus` is `biolm corpus`."""

from biolm.core.cli import room_main

room_main("corpus")
