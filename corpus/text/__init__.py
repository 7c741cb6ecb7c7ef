"""A document's text and dates while it is put together."""
