"""Processes: the signals that stop one, how children are started, and the lock that keeps two out of one folder."""
