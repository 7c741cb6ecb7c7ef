"""Documents that say nearly the same."""
