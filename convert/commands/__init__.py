"""The verbs of `biomlm convert`, one file each."""
