"""Readers: one source's records → documents."""
