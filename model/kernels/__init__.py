"""The operations that take the time, each as its device computes it best."""
