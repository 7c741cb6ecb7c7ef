"""The verbs of `biomlm launch`, one file each, with `report` and `doctor`."""
