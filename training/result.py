"""What a finished run has to show."""

from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class TrainResult:
    """What a finished run has to show.

    Args:
        step: Optimiser steps done.
        tokens: Real tokens trained on.
        seconds: Wall time of the run, over all its parts up to their last checkpoints.
        tokens_per_second: Of this process's part; 0 if nothing was left to do.
        mfu: Model FLOPs utilisation of this process's part, from 0 to 1; None where it was not asked for.
        data_wait: Share of this process's time that the loop waited for batches, from 0 to 1.
        save_wait: Share of this process's time that the loop waited for checkpoints, from 0 to 1.
        guard: What the guards did.
    """

    step: int
    tokens: int
    seconds: float
    tokens_per_second: float
    mfu: float | None
    data_wait: float
    save_wait: float
    guard: dict[str, Any]
