"""Recipes, local runs, reports and `doctor`; it starts the other rooms as commands."""
