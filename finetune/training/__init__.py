"""Training on a task, choosing on the development fold, predicting."""
