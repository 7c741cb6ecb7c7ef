"""`python -m biomlm.launch` is `biomlm launch`."""

from biomlm.core.cli import room_main

room_main("launch")
