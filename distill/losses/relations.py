"""Compare the attention relations between the tokens of a sequence: MiniLM (Wang et al. 2020, arXiv 2002.10957) and MiniLMv2
(Wang et al. 2021, arXiv 2012.15828).

A relation is softmax(A Bᵀ / √d) of two of queries, keys and values, one for each head. MiniLM takes query-key (the attention itself) and
value-value of the last layer; MiniLMv2 query-query, key-key and value-value of any one teacher layer, all heads' vectors put side by side
and cut again into as many relation heads as one likes, so that numbers of heads and widths may differ. MiniLM is treated
alike where the heads' numbers differ. Nothing is padded: each packed sequence has its own relations.

Shape suffixes: see `biomlm.model.packed`; r relation heads, e their width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biomlm.distill.losses.kinds import Kind
from biomlm.model.encoder import Encoder
from biomlm.model.rotary import rotate

PAIRS: dict[Kind, tuple[tuple[int, int], ...]] = {"minilm": ((0, 1), (2, 2)), "minilmv2": ((0, 0), (1, 1), (2, 2))}

QKV = tuple[Tensor, Tensor, Tensor]


@contextmanager
def captured(encoder: Encoder, layer: int) -> Iterator[list[QKV]]:
    """Keep queries, keys and values of one layer, each [t, h], as its attention sees them in the next forward pass.

    Args:
        encoder: The encoder that will be run.
        layer: Counted from 1.
    """
    attention: Any = encoder.layers[layer - 1].attention
    captures: list[QKV] = []

    def project(_: nn.Module, __: tuple[Any, ...], qkv_t3h: Tensor) -> None:
        captures.append(qkv_t3h.chunk(3, dim=-1))  # type: ignore[arg-type]

    def turn(_: nn.Module, inputs: tuple[Any, ...], __: Tensor) -> None:
        rotary = inputs[2]
        if rotary is not None:
            q_th, k_th, v_th = captures.pop()
            heads = (attention.heads, attention.head_size)
            q_th, k_th = (rotate(x.view(len(x), *heads), rotary).flatten(1) for x in (q_th, k_th))
            captures.append((q_th, k_th, v_th))

    def cut(_: nn.Module, inputs: tuple[Any, ...], __: list[Tensor]) -> None:
        tokens = len(inputs[0].input_ids_t)  # behind them the encoder has put filler
        captures[:] = [(q_th[:tokens], k_th[:tokens], v_th[:tokens]) for q_th, k_th, v_th in captures]

    hooks = [attention.qkv.register_forward_hook(project), attention.register_forward_hook(turn)]
    hooks.append(encoder.register_forward_hook(cut))
    try:
        yield captures
    finally:
        for hook in hooks:
            hook.remove()


def relation_distance(student: QKV, teacher: QKV, lengths: tuple[int, ...], heads: int, kind: Kind) -> Tensor:
    """Compute Σ KL(teacher's relation ‖ student's), over the pairs of `kind` and all tokens, as a mean over heads.

    Args:
        student: Queries, keys and values [t, h].
        teacher: Queries, keys and values [t, u].
        lengths: Tokens of each sequence.
        heads: Relation heads; both widths are multiples.
        kind: Which relations.
    """
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


def _per_sequence(side: QKV, lengths: tuple[int, ...], heads: int) -> Iterator[tuple[Tensor, ...]]:
    """Split queries, keys and values by sequence and head, [r, l, e]."""
    parts = [torch.split(x.view(len(x), heads, -1).transpose(0, 1), list(lengths), dim=1) for x in side]
    return zip(*parts, strict=True)


def _log_relation(a_rle: Tensor, b_rle: Tensor) -> Tensor:
    """Compute a relation's log-probabilities [r, l, l]."""
    scores_rll = a_rle @ b_rle.transpose(1, 2) / a_rle.shape[-1] ** 0.5
    return F.log_softmax(scores_rll.float(), dim=-1)
