"""Which documents are wanted."""
