"""The verbs of `biomlm corpus`, one file each."""
