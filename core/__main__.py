"""`python -m biomlm.core` is `biomlm`, for launchers that start modules."""

from biomlm.core.cli import main

main()
