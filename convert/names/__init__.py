"""How other programs name the model's tensors and settings: a row for every architecture."""
