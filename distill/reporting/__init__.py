"""The report on a student: figures that compare it with its teacher, and a page."""
