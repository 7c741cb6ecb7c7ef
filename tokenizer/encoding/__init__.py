"""Encode words quickly, and parts of speech beside them."""
