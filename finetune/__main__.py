"""`python -m biolm.finetune` is `biolm finetune`."""

from biolm.core.cli import room_main

room_main("finetune")
