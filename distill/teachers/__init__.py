"""Teachers: models beside the student, answers from a cache, and other vocabularies."""
