"""`python -m biolm.launch` is `biolm launch`."""

from biolm.core.cli import room_main

room_main("launch")
