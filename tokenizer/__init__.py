"""Learn a vocabulary, compare vocabularies, encode documents into token shards, read them back."""
