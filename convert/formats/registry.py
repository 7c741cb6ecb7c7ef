"""The formats of checkpoints by name; nothing else compares these names.

A path is asked whether it is one in this order: of a folder first, then of a single file (`convert.load`).

A format is a module with a `FORMAT` (see `convert.formats.base`) and a row here (docs/extending.md). No torch is imported: `--help`
reads this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from biomlm.core.verbs import load

if TYPE_CHECKING:
    from biomlm.convert.formats.base import Format


@dataclass(frozen=True)
class Row:
    """A format.

    Args:
        format_at: Place of its `Format`.
        written: Whether `biomlm convert --to` writes it.
    """

    format_at: str
    written: bool = False


FORMATS: Mapping[str, Row] = {
    "deepspeed": Row("biomlm.convert.formats.deepspeed:FORMAT"),
    "native": Row("biomlm.convert.formats.native:FORMAT", written=True),
    "megatron": Row("biomlm.convert.formats.megatron:FORMAT"),
    "megatron-file": Row("biomlm.convert.formats.megatron:ONE_FILE"),
    "hf": Row("biomlm.convert.formats.hf:FORMAT", written=True),
    "tensorflow": Row("biomlm.convert.formats.tensorflow:FORMAT"),
    "composer": Row("biomlm.convert.formats.composer:FORMAT"),
    # a new format
    "fairseq": Row("biomlm.convert.formats.fairseq:FORMAT", written=True),  # last: any file of `torch.save` may be its
}
WRITTEN = tuple(name for name, row in FORMATS.items() if row.written)


def find(name: str) -> "Format":
    """Import a format by its name."""
    return load(FORMATS[name].format_at)  # type: ignore[no-any-return]
