"""The checks that a conversion must pass before it is put in place."""
