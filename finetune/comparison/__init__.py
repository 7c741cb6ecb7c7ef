"""Runs side by side: tables, kinds of mistakes, a page."""
