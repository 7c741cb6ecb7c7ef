"""Compare the attention relations between the tokens of a sequence: MiniLM (Wang et al. 2020, arXiv 2002.10957) and MiniLMv2
(Wang et al. 2021, arXiv 2012.15828).

A relation is softmax(A Bᵀ / √d) of two of queries, keys and values, one for each head. MiniLM takes query-key (the attention itself) and
value-value of the last layer; MiniLMv2 query-query, key-key and value-value of any one teacher layer, all heads' vectors put side by side
and cut again into as many relation heads as one likes, so that numbers of heads and widths may differ. MiniLM is treated
alike where the heads' numbers differ. Nothing is padded: each packed sequence has its own relations.

Shape suffixes: see `biomlm.model.packed`; r relation heads, e their width.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from biomlm.core.errors import ConfigError
from biomlm.distill.losses.captured import QKV
from biomlm.distill.losses.config import LossConfig
from biomlm.distill.losses.kinds import Kind
from biomlm.distill.losses.states import Compared, StatePart
from biomlm.model.config import EncoderConfig

PAIRS: dict[Kind, tuple[tuple[int, int], ...]] = {"minilm": ((0, 1), (2, 2)), "minilmv2": ((0, 0), (1, 1), (2, 2))}


AREA = 1 << 22  # scores of a head that a GPU computes at once, padding included: sixteen sequences of 512
FAR = -1e30  # the score of a padded place: its share is 0, and its logarithm is still a number


class Relations(StatePart):
    """KL divergence of the relations of the student's last layer from those of one of the teacher's.

    Raises:
        ConfigError: The layer is missing, or the heads do not divide a width.
    """

    def __init__(self, student: EncoderConfig, teacher: EncoderConfig, config: LossConfig, source: str | Path):
        super().__init__(student, teacher, config, source)
        self.heads = config.relation_heads or student.num_attention_heads
        self.attention_layer = config.relation_layer or teacher.num_hidden_layers
        if self.attention_layer > teacher.num_hidden_layers:
            raise ConfigError(
                f"loss.relation_layer is {self.attention_layer}, and the teacher has {teacher.num_hidden_layers} layers",
                file=source,
                remedy="Leave it out for the last.",
            )
        if student.hidden_size % self.heads or teacher.hidden_size % self.heads:
            raise ConfigError(
                f"{self.heads} relation heads do not divide the student's width {student.hidden_size} "
                f"and the teacher's {teacher.hidden_size}",
                file=source,
                remedy="Give --loss.relation_heads a number that divides both.",
            )

    def __call__(self, states: Compared) -> Tensor:
        """See `StatePart`."""
        assert states.qkv is not None
        assert states.teacher.qkv is not None
        return relation_distance(
            states.qkv, states.teacher.qkv, states.packed.lengths, self.heads, kind=self.config.relation
        )

    def bytes_per_token(self, number: int, max_length: int) -> int:
        """See `StatePart`: the teacher's queries, keys and values; for each relation the student's scaled rows and two float32 matrices of
        the longest sequence for each head.
        """
        relation = self.student.hidden_size * number + self.heads * max_length * 8
        return 3 * self.teacher.hidden_size * number + len(PAIRS[self.config.relation]) * relation


def relation_distance(student: QKV, teacher: QKV, lengths: tuple[int, ...], heads: int, *, kind: Kind) -> Tensor:
    """Compute Σ KL(teacher's relation ‖ student's), over the pairs of `kind` and all tokens, as a mean over heads.

    On a CPU each sequence by itself, since its scores fit a cache; elsewhere sequences of about one length together, since every
    product there costs the time to ask for it.

    Args:
        student: Queries, keys and values [t, h].
        teacher: Queries, keys and values [t, u].
        lengths: Tokens of each sequence.
        heads: Relation heads; both widths are multiples.
        kind: Which relations.
    """
    if student[0].device.type != "cpu":
        return grouped_distance(student, teacher, lengths, heads, kind=kind)
    total = student[0].new_zeros((), dtype=torch.float32)
    student_seqs, teacher_seqs = (_per_sequence(side, lengths, heads) for side in (student, teacher))
    for student_seq, teacher_seq in zip(student_seqs, teacher_seqs, strict=True):
        for a, b in PAIRS[kind]:
            with torch.no_grad():
                target_rll = _log_relation(teacher_seq[a], teacher_seq[b])
            total = total + F.kl_div(
                _log_relation(student_seq[a], student_seq[b]), target_rll, reduction="sum", log_target=True
            )
    return total / heads


def grouped_distance(student: QKV, teacher: QKV, lengths: tuple[int, ...], heads: int, *, kind: Kind) -> Tensor:
    """Compute `relation_distance` for groups of sequences, each padded to its longest, in which a padded place counts for nothing."""
    device, total = student[0].device, student[0].new_zeros((), dtype=torch.float32)
    ends = np.cumsum(lengths)
    order = np.argsort(lengths, kind="stable")[::-1]
    # small enough for a GPU's command queue, so that the host does not wait for the copy
    spans_bx = torch.from_numpy(np.stack([ends - lengths, ends], axis=1)[order]).to(device, non_blocking=True)
    falling, start = [lengths[i] for i in order], 0
    while start < len(falling):
        longest = falling[start]
        group = spans_bx[start : start + max(1, AREA // longest**2)]
        places_bl = group[:, :1] + torch.arange(longest, device=device)
        real_bl = places_bl < group[:, 1:]
        places_bl = places_bl.minimum(group[:, 1:] - 1)
        split = partial(_split, places_bl=places_bl, heads=heads)
        student_group, teacher_group = tuple(map(split, student)), tuple(map(split, teacher))
        for a, b in PAIRS[kind]:
            with torch.no_grad():
                target_brll = _log_relation(teacher_group[a], teacher_group[b], real_bl)
            relation_brll = _log_relation(student_group[a], student_group[b], real_bl)
            divergence_brl = F.kl_div(relation_brll, target_brll, reduction="none", log_target=True).sum(-1)
            total = total + (divergence_brl * real_bl[:, None]).sum()
        start += len(group)
    return total / heads


def _split(x_th: Tensor, places_bl: Tensor, heads: int) -> Tensor:
    """Pick padded sequences and split their vectors by head, [b, r, l, e]."""
    b, length = places_bl.shape
    return x_th[places_bl].view(b, length, heads, -1).transpose(1, 2)


def _per_sequence(side: QKV, lengths: tuple[int, ...], heads: int) -> Iterator[tuple[Tensor, ...]]:
    """Split queries, keys and values by sequence and head, [r, l, e]."""
    parts = [torch.split(x.view(len(x), heads, -1).transpose(0, 1), list(lengths), dim=1) for x in side]
    return zip(*parts, strict=True)


def _log_relation(a_rle: Tensor, b_rle: Tensor, real_bl: Tensor | None = None) -> Tensor:
    """Compute a relation's log-probabilities [r, l, l]; of several sequences [b, r, l, l], `real_bl` says which places are no padding."""
    scale = a_rle.shape[-1] ** -0.5  # before the product, which may leave fp16's range
    scores_rll = (a_rle * scale @ b_rle.transpose(-1, -2)).float()
    if real_bl is not None:
        scores_rll = scores_rll.masked_fill(~real_bl[:, None, None], FAR)
    return F.log_softmax(scores_rll, dim=-1)
