"""The formats of checkpoints that are read and written, one file each."""
