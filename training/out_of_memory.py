"""When a micro-batch does not fit into memory: the largest one that would, found by trying."""

from collections.abc import Callable

import torch

from biomlm.core.errors import ConfigError
from biomlm.training.objective import B

FINENESS = 16  # parts of the micro-batch, to one of which the largest fitting one is found
CPU_WORDS = "can't allocate memory"  # torch's allocator on the CPU raises a plain RuntimeError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or CPU_WORDS in str(error)


def largest(batch: B, fits: Callable[[B], bool]) -> int:
    """Count the tokens of the longest run of a micro-batch's first pieces that fits, to a sixteenth of them; 0 if none does."""
    low, high = 0, batch.pieces
    while high - low > max(1, batch.pieces // FINENESS):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(batch.first(middle)) else (low, middle)
    if not low and fits(batch.first(1)):
        low = 1
    return len(batch.first(low).packed.input_ids_t) if low else 0


def too_large(tokens: int, title: str, fitting: int, remedy: str) -> ConfigError:
    """Return the error that names the micro-batch and a smaller one.

    Args:
        tokens: Of the micro-batch that did not fit.
        title: What names it for users.
        fitting: From `largest`, or 0 if that is not known.
        remedy: Which options make smaller ones.
    """
    hint = f"; the largest that fits has about {fitting}" if fitting else ""
    return ConfigError(f"memory ran out over a micro-batch of {tokens} tokens ({title}){hint}", remedy=remedy)
