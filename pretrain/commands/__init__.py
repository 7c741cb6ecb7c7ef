"""The verbs of `biomlm pretrain`, one file each."""
