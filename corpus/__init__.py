"""Raw files → documents: readers, cleaning, sections, sentences, duplicates, splits, citation links."""
