"""`python -m biomlm.corpus` is `biomlm corpus`."""

from biomlm.core.cli import room_main

room_main("corpus")
