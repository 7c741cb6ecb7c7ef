"""What pretraining does around the loop: the run folder, weights to start from, evaluation."""
