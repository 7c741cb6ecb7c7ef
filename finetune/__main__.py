"""`python -m biomlm.finetune` is `biomlm finetune`."""

from biomlm.core.cli import room_main

room_main("finetune")
