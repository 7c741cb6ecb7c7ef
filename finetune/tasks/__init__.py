"""Tasks: their heads, their inputs and what their outputs mean."""
