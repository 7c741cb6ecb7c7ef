"""Encode words by looking them up: text repeats its words, so each distinct one goes through the tokenizer once.

That is exact where no piece reaches across a blank, which holds for byte-level BPE, WordPiece and SentencePiece alike; for any other
tokenizer, and for one with an added token that takes in a blank, a sentence counts as one word.
"""

from itertools import chain, islice

import numpy as np
import numpy.typing as npt

from biomlm.tokenizer.documents import in_front
from biomlm.tokenizer.encoding.tiktoken_bpe import TiktokenBpe
from biomlm.tokenizer.formats.folder import Tokenizer

END = "\n"  # stands for the closing id; no word holds white space
LIMIT = 1 << 20  # distinct words kept, about 150 bytes each


class _Rows(dict[str, int]):
    """Word → row; a word that is asked for and not there gets the next row."""

    def __missing__(self, word: str) -> int:
        self[word] = row = len(self)
        return row


class WordCache:
    """A cache of words and their ids.

    Args:
        tokenizer: Encodes the words that are not in the cache yet.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.tiktoken = TiktokenBpe(tokenizer) if TiktokenBpe.applies(tokenizer) else None
        self._clear()

    def _clear(self) -> None:
        self.rows = _Rows({END: 0})
        self.ids = np.array([self.tokenizer.ids.eos], dtype=np.int32)  # [ids of all rows]
        self.start = np.zeros(1, dtype=np.int64)  # [rows]
        self.length = np.ones(1, dtype=np.int64)  # [rows]

    def encode(self, words: list[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Encode sentences.

        Args:
            words: Of all sentences, each followed by END.

        Returns:
            [ids] of all sentences with their closing ids, and [sentences] how many each has.
        """
        if len(self.rows) > LIMIT:
            self._clear()
        rows = np.fromiter(map(self.rows.__getitem__, words), dtype=np.int64, count=len(words))
        if len(self.rows) > len(self.start):
            self._add(list(islice(self.rows, len(self.start), None)))
        length = self.length[rows]
        end = np.cumsum(length)
        index = np.repeat(self.start[rows] - (end - length), length)
        index += np.arange(len(index))
        return self.ids[index], np.diff(end[rows == 0], prepend=0)

    def _add(self, words: list[str]) -> None:
        """Encode the words of the last rows."""
        texts = np.array([in_front(word) for word in words], dtype=object)
        quick = np.array([self.tiktoken is not None and text.isascii() and text[0] == " " for text in texts])
        slow = self.tokenizer.encode_batch(texts[~quick].tolist())
        length = np.empty(len(words), dtype=np.int64)
        length[~quick] = [len(ids) for ids in slow]
        parts = [np.fromiter(chain.from_iterable(slow), dtype=np.int32)]
        start = np.empty(len(words), dtype=np.int64)
        start[~quick] = np.cumsum(length[~quick]) - length[~quick]
        if self.tiktoken is not None:
            ids, length[quick] = self.tiktoken.encode(texts[quick].tolist())
            start[quick] = len(parts[0]) + np.cumsum(length[quick]) - length[quick]
            parts.append(ids)
        self.start = np.concatenate((self.start, start + len(self.ids)))
        self.length = np.concatenate((self.length, length))
        self.ids = np.concatenate((self.ids, *parts))
