"""The optimisers by their names on the command line; nothing else compares these names.

One is added by a file with a `build` and a row here (docs/extending.md). No torch is imported: `--help` reads this.
"""

from collections.abc import Mapping
from dataclasses import dataclass

ADAMS = ("betas", "eps", "weight_decay")


@dataclass(frozen=True, kw_only=True)
class Row:
    """An optimiser.

    Args:
        build_at: Place of the function that makes it from parameter groups and an `OptimConfig`.
        about: What it is, in a few words, for `--help`.
        options: The fields of `OptimConfig` that it reads and another may not.
        state: Its tensors of each parameter, of the parameter's size: a checkpoint holds them by these names.
        sliced: Whether it moves a slice of a parameter as it would within the whole: ZeRO lays parameters end to end and cuts them.
        fairseq: Whether fairseq's `adam` computes the same.
    """

    build_at: str
    about: str
    options: tuple[str, ...] = ADAMS
    state: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
    sliced: bool = False
    fairseq: bool = False


OPTIMISERS: Mapping[str, Row] = {
    "adamw": Row(
        build_at="biomlm.model.optim.adamw:build",
        about="torch's fused",
        options=(*ADAMS, "apex"),
        sliced=True,
        fairseq=True,
    ),
    "lamb": Row(
        build_at="biomlm.model.optim.lamb:build",
        about="for very large batches",
        options=(*ADAMS, "apex"),
    ),
    "stableadamw": Row(build_at="biomlm.model.optim.stableadamw:build", about="ModernBERT's, which needs no `clip`"),
    # a new optimiser
}


def reading(option: str) -> list[str]:
    """List the optimisers that read an option."""
    return [name for name, row in OPTIMISERS.items() if option in row.options]
