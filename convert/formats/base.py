"""What a format gives the rest of the room: how one is recognised and read, and what it takes to write one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from biomlm.convert.checks.models import Computes
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.core.files import read_json, write_json
from biomlm.model.config import Activation, EncoderConfig
from biomlm.tokenizer.formats import folder as tokenizer_folder
from biomlm.tokenizer.formats.folder import Tokenizer

SETTINGS = "tokenizer_config.json"


@dataclass(frozen=True)
class Folder:
    """A format that is told by the names of the files in a folder.

    Args:
        detect: Whether a path is one.
        read: Reads it.
        parts: Suffixes of files that are a part of such a folder and no model by themselves.
    """

    detect: Callable[[Path], bool]
    read: Callable[[Path], SourceCheckpoint]
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class SavedFile:
    """A format that is one file of `torch.save`, told by what it holds.

    Args:
        holds: Whether an opened file is one.
        read: Reads what it holds, with the file, and a tokenizer folder if one is given.
    """

    holds: Callable[[Any], bool]
    read: Callable[[Any, Path, Path | None], SourceCheckpoint]


@dataclass(frozen=True)
class Library:
    """A program of others that computes what a format holds, which the check compares with.

    Args:
        preload: Imports what takes long, beside other work.
        reads: Whether it reads a model of this format as it was found.
        load: Loads the model, to compute in a number type.
    """

    preload: Callable[[], None]
    reads: Callable[[SourceCheckpoint], bool]
    load: Callable[[SourceCheckpoint, torch.dtype], Computes]


def copy_tokenizer(source: SourceCheckpoint, folder: Path) -> None:
    """Write the source's tokenizer into a folder as it is, but for its longest input.

    A longer one than the model has positions for would end in an index error.
    """
    assert source.tokenizer_dir is not None
    folder.mkdir(exist_ok=True)
    for name in tokenizer_folder.FILES:
        if (source.tokenizer_dir / name).exists():
            tokenizer_folder.copy_file(source.tokenizer_dir / name, folder / name)
    stated = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    length = stated.get("model_max_length")
    if not isinstance(length, (int, float)) or length > source.config.max_positions:
        write_json(folder / SETTINGS, stated | {"model_max_length": source.config.max_positions})


def copied_ids(_: Tokenizer, folder: Path, texts: Sequence[str]) -> list[list[int]]:
    """Give the ids of texts by a tokenizer that `copy_tokenizer` wrote."""
    return tokenizer_folder.load(folder).encode_batch(texts)


@dataclass(frozen=True, kw_only=True)
class Target:
    """What it takes to write a format. What is left out is right for one that has a place for all that the native model has.

    Args:
        write: Writes weights and configuration into a folder that is not in place yet; their paths.
        refuse: Raises MismatchError for a model that the format cannot hold.
        has_place: Whether it stores a tensor of `extra_tensors`, for a model of this shape.
        head_activation: The masked-LM head's activation there.
        cuts_rows: Whether it has no rows of the vocabulary that no token has.
        write_tokenizer: Writes the tokenizer's files.
        token_ids: Gives texts' ids by the tokenizer that was written, as the format's users read it, from the source's.
        reads_words: Whether that tokenizer reads a first word like the others, where the model labels words.
        library: What computes it independently of the native model; None if only the native model does.
        card: Writes a model card from the source and the record of its conversion.
    """

    write: Callable[[SourceCheckpoint, Path, torch.dtype], list[Path]]
    refuse: Callable[[SourceCheckpoint], None] = lambda _: None
    has_place: Callable[[str, EncoderConfig], bool] = lambda _, __: True
    head_activation: Callable[[EncoderConfig], Activation] = lambda config: config.head_activation
    cuts_rows: bool = False
    write_tokenizer: Callable[[SourceCheckpoint, Path], None] = copy_tokenizer
    token_ids: Callable[[Tokenizer, Path, Sequence[str]], list[list[int]]] = copied_ids
    reads_words: bool = False
    library: Library | None = None
    card: Callable[[Path, SourceCheckpoint, Mapping[str, Any]], None] | None = None


@dataclass(frozen=True)
class Format:
    """A kind of checkpoint.

    Args:
        source: How one is recognised and read.
        target: What it takes to write one; None if that cannot be done.
    """

    source: Folder | SavedFile
    target: Target | None = None
