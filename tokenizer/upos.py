"""Universal parts of speech and their numbers (Nivre et al. 2016; `universaldependencies.org/u/pos`)."""

UPOS = (
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X",
)  # fmt: skip
ID = {tag: i for i, tag in enumerate(UPOS, start=1)}  # 0 is no tag
