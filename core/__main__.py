"""`python -m biolm.core` is `biolm`, for launchers that start modules."""

from biolm.core.cli import main

main()
