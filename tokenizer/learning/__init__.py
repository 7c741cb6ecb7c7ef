"""Learn a vocabulary: count words in bounded memory, then merge."""
