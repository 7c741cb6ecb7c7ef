"""The verbs of `biomlm tokenizer`, one file each."""
