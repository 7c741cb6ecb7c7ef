"""Sequences without padding: one flat row of tokens and where each sequence begins.

Shape suffixes used in this room: t tokens of all sequences together, b sequences, l the longest sequence, h hidden size,
n attention heads, d head size, m masked positions, v vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def round_to_bucket(n: int) -> int:
    """Round up to one of few sizes: multiples of 16, and beyond 2,048 of a 64th to a 128th of the size.

    oneDNN caches data for every shape of a product that it has met, in between the tensors, and so fragments their memory. With a new
    number of tokens in every step a run of 4 × 768 grew by 0.1 GB a step, to 10.5 GB after 60; now 4.7.
    """
    step = max(16, 1 << max(n.bit_length() - 7, 0))
    return max(-(-n // step), 1) * step


SPAN = 128  # queries that a variable-length kernel takes at a time
TILE = 64  # rows: tensor cores multiply whole tiles, and 16-bit rows whose number is no multiple of 8 far more slowly


def rows_for(n: int, device: torch.device) -> int:
    """Return how many rows n are computed as on a device: on a CPU one of few sizes, elsewhere whole tiles."""
    return round_to_bucket(n) if device.type == "cpu" else max(-(-n // TILE), 1) * TILE


@dataclass(frozen=True)
class Packed:
    """A batch of sequences laid end to end.

    Args:
        input_ids_t: Token ids, int64.
        lengths: Tokens of each sequence, on the host, so that no kernel has to wait for a device to know them.
        token_type_ids_t: 0 or 1 for the first or second segment of a pair, int64; None for all 0.
    """

    input_ids_t: Tensor
    lengths: tuple[int, ...]
    token_type_ids_t: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.input_ids_t.ndim == 1
        assert sum(self.lengths) == len(self.input_ids_t), "lengths do not cover the tokens"
        assert min(self.lengths, default=1) > 0

    @property
    def max_seqlen(self) -> int:
        """The tokens of the longest sequence."""
        return max(self.lengths)

    @cached_property
    @torch.inference_mode(False)  # it outlives the pass that asked first, and a later one may be for training
    def cu_seqlens(self) -> Tensor:
        """Where each sequence begins and the last one ends: int32 [b + 1], as variable-length attention kernels take it.

        Made once for all layers, and small enough for a GPU's command queue, so that the host does not wait for the copy.
        """
        starts = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)
        return torch.from_numpy(starts).to(self.input_ids_t.device, non_blocking=True)

    @cached_property
    @torch.inference_mode(False)
    def position_ids_t(self) -> Tensor:
        """The position of each token in its own sequence, from 0; computed on the tokens' device."""
        own_start_t = self._of_sequences(self.cu_seqlens[:-1].long())
        return torch.arange(len(own_start_t), device=own_start_t.device) - own_start_t

    @cached_property
    def layouts(self) -> dict[Any, Any]:
        """What a kernel of attention has made of the lengths, for all layers."""
        return {}

    def pad_to_bucket(self) -> "Packed":
        """Append padding sequences up to a size of `rows_for`; their outputs are to be ignored."""
        tokens = len(self.input_ids_t)
        missing = rows_for(tokens, self.input_ids_t.device) - tokens
        if not missing:
            return self
        whole, rest = divmod(missing, self.max_seqlen)
        lengths = self.lengths + (self.max_seqlen,) * whole + (rest,) * bool(rest)
        types = self.token_type_ids_t
        return Packed(
            F.pad(self.input_ids_t, (0, missing)), lengths, None if types is None else F.pad(types, (0, missing))
        )

    @property
    def spans(self) -> "Spans":
        """What a compiled layer is told of it."""
        return Spans(self.cu_seqlens, -(-self.max_seqlen // SPAN) * SPAN)

    def _of_sequences(self, values_b: Tensor) -> Tensor:
        """Repeat each sequence's value for each of its tokens, [t]; the host need not wait for the device to know how many."""
        counts_b = self.cu_seqlens.long().diff()
        return torch.repeat_interleave(values_b, counts_b, output_size=len(self.input_ids_t))

    def pin(self) -> "Packed":
        """Return the same batch in page-locked memory, which a GPU copies from asynchronously."""
        types_t = self.token_type_ids_t
        return Packed(self.input_ids_t.pin_memory(), self.lengths, None if types_t is None else types_t.pin_memory())

    def to(self, device: torch.device) -> "Packed":
        """Return the same batch on another device."""
        types = self.token_type_ids_t
        moved = None if types is None else types.to(device, non_blocking=True)
        return Packed(self.input_ids_t.to(device, non_blocking=True), self.lengths, moved)


@dataclass(frozen=True)
class Spans:
    """Where packed sequences lie, as a kernel for any lengths is told: no number of it differs in kind from batch to batch, so that
    torch.compile sees the same graph in all of them.

    Args:
        cu_seqlens: As `Packed.cu_seqlens`.
        max_seqlen: The longest sequence or a little more, which such a kernel only takes its grid from.
    """

    cu_seqlens: Tensor
    max_seqlen: int


def pack(sequences: Sequence[Sequence[int]]) -> Packed:
    """Lay lists of token ids end to end."""
    flat = [token for sequence in sequences for token in sequence]
    return Packed(torch.tensor(flat, dtype=torch.int64), tuple(len(sequence) for sequence in sequences))


def unpad(input_ids_bl: Tensor, attention_mask_bl: Tensor) -> Packed:
    """Drop the padding of a right-padded batch."""
    mask = attention_mask_bl.bool()
    return Packed(input_ids_bl[mask], tuple(int(n) for n in mask.sum(1)))


def pad(values_th: Tensor, lengths: Sequence[int]) -> Tensor:
    """Turn flat rows into right-padded [b, l, …], zeros at padding."""
    return torch.nn.utils.rnn.pad_sequence(list(torch.split(values_th, list(lengths))), batch_first=True)
