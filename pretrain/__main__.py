"""`python -m biolm.pretrain` is `biolm pretrain`."""

from biolm.core.cli import room_main

room_main("pretrain")
