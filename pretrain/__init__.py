"""Objectives, batches, the one training loop, evaluation."""
