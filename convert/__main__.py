"""`python -m biolm.convert` is `biolm convert`."""

from biolm.core.cli import room_main

room_main("convert")
