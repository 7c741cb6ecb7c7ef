"""Data sets: their folds, their records and the tags and marks in them."""
