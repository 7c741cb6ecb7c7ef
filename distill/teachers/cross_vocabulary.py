"""A teacher with another vocabulary: it reads the same text in its own pieces, and hidden states are compared word by word.

A word is what stands between two blanks, or a piece and its continuations in a WordPiece vocabulary. A token of the student is held against
the mean of the teacher's states over the pieces of its word, and so are all tokens of that word, as their own mean. The teacher reads the
text as it is, without the student's masks, which makes it say what a masked word is (as in data2vec, Baevski et al. 2022,
arXiv 2202.03555). Words that the teacher has no piece or no position for are left out, and so are those that the student itself has no text
of (its unknown piece, half a character); the share of tokens that take part is reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from biomlm.convert.load import Loaded
from biomlm.core.errors import MismatchError
from biomlm.distill.teachers.teacher import Answerer, Answers, View, Wanted
from biomlm.model.device import Device
from biomlm.model.packed import Packed, pack
from biomlm.pretrain.data.batches import Batch
from biomlm.tokenizer.formats import folder as tokenizer_folder
from biomlm.tokenizer.formats.folder import Tokenizer

I64 = npt.NDArray[np.int64]
REPLACEMENT = "\ufffd"  # what bytes that are no character are decoded to


@dataclass(frozen=True)
class Reading:
    """How a teacher reads a micro-batch.

    Args:
        packed: In the teacher's pieces.
        word_of_theirs: The word of each of its tokens; -1 for special ones.
        word_of_t: The word of each of the student's tokens; -1 for special ones and words that the teacher leaves out.
        words: How many words there are.
    """

    packed: Packed
    word_of_theirs: Tensor
    word_of_t: Tensor
    words: int


class Reader:
    """Spells the student's words in a teacher's pieces.

    Args:
        ours: The student's tokenizer.
        theirs: The teacher's.
        most: Longest sequence of the teacher in tokens.
    """

    def __init__(self, ours: Tokenizer, theirs: Tokenizer, most: int):
        self.ours, self.theirs, self.most = ours, theirs, most
        self.inside = ours.state["model"].get("continuing_subword_prefix") or ""
        self.textless = {ours.ids.unk, ours.ids.pad, ours.ids.mask}
        self.known: dict[tuple[int, ...], list[int]] = {}

    def __call__(self, batch: Batch) -> Reading:
        """Spell a micro-batch."""
        ids_t = batch.packed.input_ids_t.cpu().numpy().copy()
        ids_t[batch.positions_m.cpu().numpy()] = batch.labels_m.cpu().numpy()
        word_of_t, theirs, word_of_theirs, words, start = np.full(len(ids_t), -1), [], [], 0, 0
        for length in batch.packed.lengths:
            pieces, owners = [self.theirs.ids.bos], [-1]
            for begin, end in self._words(ids_t[start : start + length]):
                spelt = self._spell(tuple(ids_t[start + begin : start + end].tolist()))
                if spelt and len(pieces) + len(spelt) < self.most:
                    word_of_t[start + begin : start + end] = words
                    pieces, owners = pieces + spelt, owners + [words] * len(spelt)
                    words += 1
            theirs.append([*pieces, self.theirs.ids.eos])
            word_of_theirs += [*owners, -1]
            start += length
        return Reading(pack(theirs), torch.tensor(word_of_theirs), torch.from_numpy(word_of_t), words)

    def _words(self, ids_t: I64) -> list[tuple[int, int]]:
        """First token of each word of a sequence, and the one behind its last; special tokens are no words."""
        special = np.isin(ids_t, (self.ours.ids.bos, self.ours.ids.eos))
        first = self.ours.is_word_start[ids_t] | special
        first[1:] |= special[:-1]
        begins = [*np.flatnonzero(first).tolist(), len(ids_t)]
        return [(a, b) for a, b in pairwise(begins) if not special[a]]

    def _spell(self, word: tuple[int, ...]) -> list[int]:
        if word not in self.known:
            text = self._text(word)
            self.known[word] = self.theirs.encode(text) if text else []
        return self.known[word]

    def _text(self, word: tuple[int, ...]) -> str:
        """A word with the blank in front of it, which only byte-level pieces keep; nothing if a piece has no text, or half a character."""
        text = self.ours.decode(word).removeprefix(self.inside)
        if not self.textless.isdisjoint(word) or REPLACEMENT in text or not text.strip():
            return ""
        return f" {text}" if self.ours.is_word_start[word[0]] and not text.startswith(" ") else text


def word_means(states_th: Tensor, word_of_t: Tensor, words: int) -> Tensor:
    """Mean state of each word, [w, h], float32; -1 stands for no word."""
    here = word_of_t >= 0
    sums_wh = states_th.new_zeros(words, states_th.shape[1], dtype=torch.float32)
    sums_wh = sums_wh.index_add(0, word_of_t[here], states_th[here].float())
    counts_w = torch.bincount(word_of_t[here], minlength=words)
    return sums_wh / counts_w.clamp(min=1)[:, None]


class WordTeachers(Answerer):
    """Teachers with vocabularies of their own; what they answer is word means.

    Args:
        loaded: The teachers, each with its tokenizer beside it.
        device: Its precision is taken; the models follow the micro-batches.
        ours: The student's tokenizer.

    Raises:
        MismatchError: One has no tokenizer.
    """

    def __init__(self, loaded: Sequence[Loaded], device: Device, ours: Tokenizer):
        super().__init__([teacher.config for teacher in loaded])
        self.device = device
        self.models = [teacher.model.eval().requires_grad_(False) for teacher in loaded]
        self.readers = [Reader(ours, _tokenizer(teacher), teacher.config.max_positions) for teacher in loaded]

    def require(self, wanted: Sequence[Wanted]) -> None:
        """See `Answerer`: `DistillConfig` has refused all but hidden states."""

    def __call__(self, batch: Batch, wanted: Sequence[Wanted]) -> Answers:
        """See `Answerer`."""
        where = batch.packed.input_ids_t.device
        views = []
        for model, reader, want in zip(self.models, self.readers, wanted, strict=True):
            reading = reader(batch)
            with torch.no_grad(), self.device.autocast():
                hidden = model.to(where).encoder(reading.packed.to(where))
            means = {n: word_means(hidden[n], reading.word_of_theirs.to(where), reading.words) for n in want.layers}
            views.append(View(means, word_of_t=reading.word_of_t.to(where)))
        return Answers(None, views)


def _tokenizer(teacher: Loaded) -> Tokenizer:
    if teacher.tokenizer_dir is None:
        raise MismatchError(
            "it has no tokenizer beside it", file=teacher.source, remedy="Put its tokenizer files into its folder."
        )
    return tokenizer_folder.load(teacher.tokenizer_dir)
