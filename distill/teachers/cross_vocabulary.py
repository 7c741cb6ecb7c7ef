"""Align a teacher with another vocabulary: it reads the same text in its own pieces, and hidden states are compared word by word.

A word is what stands between two blanks, or a piece and its continuations in a WordPiece vocabulary. The mean of the student's states over
the tokens of a word is compared with the mean of the teacher's states over its pieces of that word. The teacher reads the
text without the student's masks, so that its states show what a masked word is (as in data2vec, Baevski et al. 2022,
arXiv 2202.03555). Words that the teacher has no piece or no position for are left out, and so are those that the student itself has no text
of (its unknown piece, half a character); the share of tokens that are compared is reported.
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
from biomlm.distill.teachers.teacher import TeacherOutputs, TeacherRequest, TeacherSource, TeacherStates
from biomlm.model.device import Device, send
from biomlm.model.packed import Packed, pack
from biomlm.pretrain.data.batches import Batch
from biomlm.tokenizer.formats import folder as tokenizer_folder
from biomlm.tokenizer.formats.folder import Tokenizer

I64 = npt.NDArray[np.int64]
REPLACEMENT = "\ufffd"  # what bytes that are no character are decoded to


@dataclass(frozen=True)
class WordAlignment:
    """A micro-batch in a teacher's pieces, aligned by words with the student's tokens.

    Args:
        packed: In the teacher's pieces.
        teacher_word_of_t: The word of each of the teacher's tokens; -1 for special ones.
        word_of_t: The word of each of the student's tokens; -1 for special ones and words that the teacher leaves out.
        words: How many words there are.
    """

    packed: Packed
    teacher_word_of_t: Tensor
    word_of_t: Tensor
    words: int


class WordAligner:
    """Spells the student's words in a teacher's pieces.

    Args:
        student: The student's tokenizer.
        teacher: The teacher's.
        max_length: Longest sequence of the teacher in tokens.
    """

    def __init__(self, student: Tokenizer, teacher: Tokenizer, max_length: int):
        self.student, self.teacher, self.max_length = student, teacher, max_length
        self.continuation_prefix = student.state["model"].get("continuing_subword_prefix") or ""
        self.textless = {student.ids.unk, student.ids.pad, student.ids.mask}
        self.spellings: dict[tuple[int, ...], list[int]] = {}

    def __call__(self, batch: Batch) -> WordAlignment:
        """Spell a micro-batch in the teacher's pieces."""
        source = batch.on_host
        ids_t = source.packed.input_ids_t.numpy().copy()
        ids_t[source.positions_m.numpy()] = source.labels_m.numpy()
        sequences, teacher_word_of_t, word_of_t = [], [], np.full(len(ids_t), -1)
        words = start = 0
        for length in batch.packed.lengths:
            pieces, word_of_piece = [self.teacher.ids.bos], [-1]
            for begin, end in self._words(ids_t[start : start + length]):
                spelling = self._spell(tuple(ids_t[start + begin : start + end].tolist()))
                if spelling and len(pieces) + len(spelling) < self.max_length:
                    word_of_t[start + begin : start + end] = words
                    pieces, word_of_piece = pieces + spelling, word_of_piece + [words] * len(spelling)
                    words += 1
            sequences.append([*pieces, self.teacher.ids.eos])
            teacher_word_of_t += [*word_of_piece, -1]
            start += length
        return WordAlignment(pack(sequences), torch.tensor(teacher_word_of_t), torch.from_numpy(word_of_t), words)

    def _words(self, ids_t: I64) -> list[tuple[int, int]]:
        """Split a sequence into words: first token of each, and the one behind its last; special tokens belong to no word."""
        special = np.isin(ids_t, (self.student.ids.bos, self.student.ids.eos))
        first = self.student.is_word_start[ids_t] | special
        first[1:] |= special[:-1]
        begins = [*np.flatnonzero(first).tolist(), len(ids_t)]
        return [(a, b) for a, b in pairwise(begins) if not special[a]]

    def _spell(self, word: tuple[int, ...]) -> list[int]:
        if word not in self.spellings:
            text = self._text(word)
            self.spellings[word] = self.teacher.encode(text) if text else []
        return self.spellings[word]

    def _text(self, word: tuple[int, ...]) -> str:
        """Decode a word, with the blank before it, which only byte-level pieces keep; empty if a piece has no text or half a character."""
        text = self.student.decode(word).removeprefix(self.continuation_prefix)
        if not self.textless.isdisjoint(word) or REPLACEMENT in text or not text.strip():
            return ""
        return f" {text}" if self.student.is_word_start[word[0]] and not text.startswith(" ") else text


def word_means(states_th: Tensor, word_of_t: Tensor, words: int) -> Tensor:
    """Average the states of each word, [w, h], float32; -1 stands for no word."""
    sums_wh = sum_by_word(states_th.float(), word_of_t, words)
    return sums_wh / word_sizes(word_of_t, words).clamp(min=1)[:, None]


def word_sizes(word_of_t: Tensor, words: int) -> Tensor:
    """Count the tokens of each word, [w]."""
    return sum_by_word(torch.ones_like(word_of_t), word_of_t, words)


def sum_by_word(values_t: Tensor, word_of_t: Tensor, words: int) -> Tensor:
    """Sum tokens' values over each word, [w, …]; those of no word go to a row of their own, so that nobody need know how many they are."""
    rows_t = torch.where(word_of_t < 0, words, word_of_t)
    return values_t.new_zeros(words + 1, *values_t.shape[1:]).index_add(0, rows_t, values_t)[:words]


class WordAlignedTeachers(TeacherSource):
    """Teachers with vocabularies of their own; their outputs are the mean states of words.

    Args:
        loaded: The teachers, each with its tokenizer beside it.
        device: Its precision is taken; the models follow the micro-batches.
        student: The student's tokenizer.

    Raises:
        MismatchError: A teacher has no tokenizer.
    """

    def __init__(self, loaded: Sequence[Loaded], device: Device, student: Tokenizer):
        super().__init__([teacher.config for teacher in loaded])
        self.device = device
        self.models = [teacher.model.eval().requires_grad_(False) for teacher in loaded]
        self.aligners = [WordAligner(student, _tokenizer(teacher), teacher.config.max_positions) for teacher in loaded]

    def require(self, requests: Sequence[TeacherRequest]) -> None:
        """See `TeacherSource`: `DistillConfig` has refused all but hidden states."""

    def __call__(self, batch: Batch, requests: Sequence[TeacherRequest]) -> TeacherOutputs:
        """See `TeacherSource`."""
        device = batch.packed.input_ids_t.device
        states = []
        for model, aligner, request in zip(self.models, self.aligners, requests, strict=True):
            alignment = aligner(batch)
            packed = alignment.packed.pin() if device.type == "cuda" else alignment.packed
            with torch.no_grad(), self.device.autocast():
                hidden = model.to(device).encoder(packed.to(device))
            word_of_piece = send(alignment.teacher_word_of_t, device)
            means = {n: word_means(hidden[n], word_of_piece, alignment.words) for n in request.layers}
            states.append(TeacherStates(means, word_of_t=send(alignment.word_of_t, device)))
        return TeacherOutputs(None, states)


def _tokenizer(teacher: Loaded) -> Tokenizer:
    if teacher.tokenizer_dir is None:
        raise MismatchError(
            "it has no tokenizer beside it", file=teacher.source, remedy="Put its tokenizer files into its folder."
        )
    return tokenizer_folder.load(teacher.tokenizer_dir)
