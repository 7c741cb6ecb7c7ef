"""Compare the states of a student and one of its teachers at all tokens.

Shape suffixes: see `biomlm.model.packed`; u teacher width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from biomlm.distill.losses.captured import QKV
from biomlm.distill.losses.config import LossConfig
from biomlm.distill.losses.kinds import Distance
from biomlm.distill.losses.layer_maps import layer_map
from biomlm.distill.teachers.cross_vocabulary import word_means, word_sizes
from biomlm.distill.teachers.teacher import TeacherStates
from biomlm.model.config import EncoderConfig
from biomlm.model.packed import Packed

Layers = tuple[int, int]  # of the student and of the teacher
EMBEDDINGS: Layers = (0, 0)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The states of the student and of one teacher for a micro-batch.

    Args:
        hidden: The student's hidden states after each layer, from the embeddings' output on, [t, h] each.
        qkv: Queries, keys and values of its last layer, where a part asks for them.
        teacher: The teacher's states.
        packed: The micro-batch.
        project: Projects states of the student, compared in a pair of layers, to the teacher's width.
    """

    hidden: Sequence[Tensor]
    qkv: QKV | None
    teacher: TeacherStates
    packed: Packed
    project: Callable[[Layers, Tensor], Tensor]


class StatePart(ABC):
    """A part of the loss that compares states.

    Args:
        student: Shape of the student.
        teacher: Shape of the teacher.
        config: How the part is learnt.
        source: Where the teacher came from, for errors.
    """

    layers: Sequence[Layers] = ()  # whose hidden states are compared, through a projection where widths differ
    attention_layer: int | None = None  # of the teacher, whose queries, keys and values are compared; counted from 1

    def __init__(self, student: EncoderConfig, teacher: EncoderConfig, config: LossConfig, source: str | Path):
        self.student, self.teacher, self.config, self.source = student, teacher, config, source

    @abstractmethod
    def __call__(self, states: Compared) -> Tensor:
        """Sum the distance over the tokens."""

    def bytes_per_token(self, number: int, max_length: int) -> int:
        """Count what it keeps for the backward pass beside the states of `layers`; `number` are the bytes of a number."""
        del number, max_length
        return 0


class HiddenStates(StatePart):
    """Distance of hidden states, as a mean over the pairs of layers."""

    def __init__(self, student: EncoderConfig, teacher: EncoderConfig, config: LossConfig, source: str | Path):
        super().__init__(student, teacher, config, source)
        depths = student.num_hidden_layers, teacher.num_hidden_layers
        self.layers = layer_map(config.layers, *depths, option="loss.layers", source=source)

    def __call__(self, states: Compared) -> Tensor:
        """See `StatePart`."""
        distances = [state_distance(pair, states, self.config.distance) / len(self.layers) for pair in self.layers]
        return sum(distances[1:], distances[0])


class Embeddings(StatePart):
    """Distance of the embeddings' outputs."""

    layers = (EMBEDDINGS,)

    def __call__(self, states: Compared) -> Tensor:
        """See `StatePart`."""
        return state_distance(EMBEDDINGS, states, self.config.distance)


class SequenceMeans(StatePart):
    """Distance of the sequences' mean last hidden states, each weighted by its number of tokens."""

    def __init__(self, student: EncoderConfig, teacher: EncoderConfig, config: LossConfig, source: str | Path):
        super().__init__(student, teacher, config, source)
        self.last = student.num_hidden_layers, teacher.num_hidden_layers
        self.layers = (self.last,)

    def __call__(self, states: Compared) -> Tensor:
        """See `StatePart`."""
        lengths_b = states.packed.cu_seqlens.diff()
        layer, teacher_layer = self.last
        sides = (states.hidden[layer], states.teacher.hidden[teacher_layer])
        student_bh, teacher_bu = (sequence_means(x, lengths_b) for x in sides)
        return (lengths_b * distance(states.project(self.last, student_bh), teacher_bu, self.config.distance)).sum()


def state_distance(layers: Layers, states: Compared, kind: Distance) -> Tensor:
    """Sum the distance of one pair of layers over the tokens."""
    layer, teacher_layer = layers
    student_th, teacher_tu = states.hidden[layer], states.teacher.hidden[teacher_layer]
    word_of_t = states.teacher.word_of_t
    if word_of_t is None:
        return distance(states.project(layers, student_th), teacher_tu, kind).sum()
    words = len(teacher_tu)  # each token stands for its word
    distance_w = distance(states.project(layers, word_means(student_th, word_of_t, words)), teacher_tu, kind)
    return (word_sizes(word_of_t, words) * distance_w).sum()


def distance(student_tu: Tensor, teacher_tu: Tensor, kind: Distance) -> Tensor:
    """Measure the distance of each token's hidden states, [t].

    Args:
        student_tu: The student's states, projected to the teacher's width where they differ.
        teacher_tu: The teacher's states.
        kind: `cosine` is 1 - cosine, from 0 to 2 (DistilBERT, Sanh et al. 2019, arXiv 1910.01108); `mse` the mean square over the width
            (TinyBERT, Jiao et al. 2020, arXiv 1909.10351).
    """
    student_tu, teacher_tu = student_tu.float(), teacher_tu.float()
    if kind == "cosine":
        return 1 - F.cosine_similarity(student_tu, teacher_tu, dim=-1)
    return (student_tu - teacher_tu).square().mean(-1)


def sequence_means(states_th: Tensor, lengths_b: Tensor) -> Tensor:
    """Average each sequence's states, [b, h], float32: a sentence encoder's embedding (Reimers and Gurevych 2019, arXiv 1908.10084)."""
    means_bh: Tensor = torch.segment_reduce(
        states_th.float(), "mean", lengths=lengths_b, unsafe=True
    )  # unchecked: no wait for a GPU
    return means_bh
