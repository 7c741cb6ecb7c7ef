"""The verbs of `biomlm finetune`, one file each."""
