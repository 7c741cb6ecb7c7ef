"""Processes: the signals that stop one, and how children are started."""
