"""The encoder, its heads, packed attention and initialisation."""
