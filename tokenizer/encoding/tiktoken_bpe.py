"""Byte-level BPE of ASCII words through tiktoken, which is several times faster than `tokenizers` at the same ids.

The two differ where their Unicode tables do, so text beyond ASCII stays with `tokenizers`. tiktoken merges whatever two neighbours make
a piece of the lowest rank; that is BPE exactly where every piece is made by one merge, as in anything that BPE has learnt.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tiktoken

from biomlm.tokenizer.formats import bytelevel
from biomlm.tokenizer.formats.folder import Tokenizer


class TiktokenBpe:
    """Encode many ASCII words at once.

    Args:
        tokenizer: One for which `applies` is true.
    """

    def __init__(self, tokenizer: Tokenizer):
        characters = bytelevel.alphabet()
        byte_of = {character: bytes([byte]) for byte, character in enumerate(characters)}
        merges = tokenizer.state["model"]["merges"]
        pieces = [*sorted(characters), *(left + right for left, right in merges)]
        ranks = {b"".join(map(byte_of.__getitem__, piece)): rank for rank, piece in enumerate(pieces)}
        self.bpe = tiktoken.Encoding("biomlm", pat_str=bytelevel.WORD.pattern, mergeable_ranks=ranks, special_tokens={})
        vocab = tokenizer.hf.get_vocab(with_added_tokens=False)
        ids = np.array([vocab[piece] for piece in pieces], dtype=np.int32)
        self.ids = np.where(ids < tokenizer.vocab_size, ids, tokenizer.ids.unk).astype(np.int32)
        self.opens = np.array([piece.startswith("Ġ") for piece in pieces])

    @staticmethod
    def applies(tokenizer: Tokenizer) -> bool:
        """Whether it is plain byte-level BPE without added tokens, each piece of which is a byte or made by one merge."""
        model, split = tokenizer.state["model"], tokenizer.state["pre_tokenizer"] or {}
        plain = not any(model.get(name) for name in ("dropout", "ignore_merges", "byte_fallback", "end_of_word_suffix"))
        if model["type"] != "BPE" or tokenizer.state["normalizer"] or tokenizer.added or not plain:
            return False
        merged = {left + right for left, right in model["merges"]}
        whole = len(merged) == len(model["merges"]) and not merged & set(bytelevel.alphabet())
        byte_level = split.get("type") == "ByteLevel" and not split["add_prefix_space"] and split["use_regex"]
        return whole and byte_level and set(bytelevel.alphabet()) <= model["vocab"].keys()

    def encode(self, words: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Encode ASCII words, each with its blank in front.

        Returns:
            [ids] of all words, and [words] how many each has.
        """
        ranks = np.array(self.bpe.encode_ordinary("".join(words)), dtype=np.int64)
        length = np.diff(np.flatnonzero(self.opens[ranks]), append=len(ranks))
        return self.ids[ranks], length
