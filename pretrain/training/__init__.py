"""The training loop and what it needs around it: run folder, guard, metrics, evaluation."""
