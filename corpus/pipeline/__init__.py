"""The steps between raw files and the output folder, in the order in which they run."""
