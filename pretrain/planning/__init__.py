"""What a training would need, before it is run."""
