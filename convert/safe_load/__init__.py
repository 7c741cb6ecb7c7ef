"""Open files from strangers: archives, `torch.save` and pickles, none of which is ever executed."""
