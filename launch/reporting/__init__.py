"""The report on a launch: reading its folders, and the sections of the page."""
