"""The verbs of `biomlm distill`, one file each."""
