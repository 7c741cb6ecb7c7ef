"""`python -m biolm.tokenizer` is `biolm tokenizer`."""

from biolm.core.cli import room_main

room_main("tokenizer")
