"""When a micro-batch does not fit into memory: the largest one that would, found by trying."""

from collections.abc import Callable
from dataclasses import replace

import torch

from biomlm.core.errors import ConfigError
from biomlm.model.packed import Packed
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.data.config import BatchConfig

FINENESS = 16  # parts of the micro-batch, to one of which the largest fitting one is found
CPU_WORDS = "can't allocate memory"  # torch's allocator on the CPU raises a plain RuntimeError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or CPU_WORDS in str(error)


def cut(batch: Batch, sequences: int) -> Batch:
    """Return the first sequences of a micro-batch."""
    lengths = batch.packed.lengths[:sequences]
    types_t, pairs_b = batch.packed.token_type_ids_t, batch.pair_labels_b
    tokens = sum(lengths)
    predicted = int((batch.positions_m < tokens).sum())
    packed = Packed(batch.packed.input_ids_t[:tokens], lengths, None if types_t is None else types_t[:tokens])
    return replace(
        batch,
        packed=packed,
        positions_m=batch.positions_m[:predicted],
        labels_m=batch.labels_m[:predicted],
        places_m=None if batch.places_m is None else batch.places_m[:predicted],
        pair_labels_b=None if pairs_b is None else pairs_b[:sequences],
    )


def largest(batch: Batch, fits: Callable[[Batch], bool]) -> int:
    """Count the tokens of the longest run of a micro-batch's first sequences that fits, to a sixteenth of them; 0 if none does."""
    low, high = 0, len(batch.packed.lengths)
    while high - low > max(1, len(batch.packed.lengths) // FINENESS):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(cut(batch, middle)) else (low, middle)
    if not low and fits(cut(batch, 1)):
        low = 1
    return sum(batch.packed.lengths[:low])


def too_large(batch: Batch, fitting: int, sizes: BatchConfig) -> ConfigError:
    """Return the error that names the micro-batch and a smaller one.

    Args:
        batch: That did not fit.
        fitting: From `largest`, or 0 if that is not known.
        sizes: As configured; the tokens are a mean, so a micro-batch may hold a sequence more.
    """
    tokens, advised = len(batch.packed.input_ids_t), fitting - sizes.max_length
    if advised >= sizes.max_length:
        accumulation = -(-sizes.tokens * sizes.accumulation // advised)
        remedy = f"Give --batch.tokens {advised} --batch.accumulation {accumulation}: the same step in smaller parts."
    else:
        remedy = (
            "Lower --batch.max_length or --batch.tokens, or take a smaller --model.size; the last checkpoint is whole."
        )
    hint = f"; the largest that fits has about {fitting}" if fitting else ""
    return ConfigError(
        f"memory ran out over a micro-batch of {tokens} tokens (micro-batch {batch.index} of epoch {batch.epoch}){hint}",
        remedy=remedy,
    )
