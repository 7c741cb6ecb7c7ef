"""`python -m biomlm.pretrain` is `biomlm pretrain`."""

from biomlm.core.cli import room_main

room_main("pretrain")
