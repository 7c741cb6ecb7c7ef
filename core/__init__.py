"""What every room stands on: configuration, errors, atomic files, manifests, checkpoints, random numbers, metrics, progress."""
