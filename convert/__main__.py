"""`python -m biomlm.convert` is `biomlm convert`."""

from biomlm.core.cli import room_main

room_main("convert")
