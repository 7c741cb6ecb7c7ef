"""What `biomlm adapt` decides about a model and its text, and how it writes that down as a recipe."""
