"""`python -m biomlm.tokenizer` is `biomlm tokenizer`."""

from biomlm.core.cli import room_main

room_main("tokenizer")
