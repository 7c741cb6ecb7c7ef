"""The files of each fold in a data set's folder, and a development fold for data sets that are published without one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from biomlm.core import rng
from biomlm.core.errors import DataError
from biomlm.finetune.data.records import Labelled, Tagged
from biomlm.inputs.streams import bare_name

NAMES = {"train": ("train",), "dev": ("devel", "dev", "valid", "eval"), "test": ("test",)}
DEV_SHARE = 10  # PubMedQA's own script holds a tenth of what is not test out


def find(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Find the file of each fold: `train.tsv`, or the one file in `train/`; `.gz` or `.xz` may follow.

    Raises:
        DataError: One of the three is missing, or not alone.
    """
    file_of = {}
    for fold, names in NAMES.items():
        wanted = [name + ending for name in names for ending in endings]
        beside = [path for path in sorted(folder.iterdir()) if path.is_file() and bare_name(path.name) in wanted]
        below = [p for name in names if (folder / name).is_dir() for p in sorted((folder / name).iterdir())]
        files = beside + [path for path in below if bare_name(path.name).endswith(endings)]
        if len(files) != 1:
            problem = "there are several" if files else "there is no"
            tried = " or ".join(file.name for file in files) or f"{names[0]} file ({', '.join(endings)}, also in gzip)"
            raise DataError(f"{problem} {tried}", file=folder, remedy="Put one file for each fold there.")
        file_of[fold] = files[0]
    return file_of


def named(folder: Path, names: Mapping[str, str]) -> dict[str, list[Path]] | None:
    """Find the file of each fold by its published name; None unless all three are there."""
    files_of = {fold: [folder / name] for fold, name in names.items()}
    return files_of if all(path.is_file() for (path,) in files_of.values()) else None


def folders(folder: Path, more: dict[str, tuple[str, ...]], pattern: str) -> dict[str, list[Path]] | None:
    """Find files below the folder of each fold, at any depth; None unless train and test have some.

    Args:
        folder: The data set's.
        more: Published names of folds' folders, beside the usual ones; case does not matter.
        pattern: Of the files' names.
    """
    files_of: dict[str, list[Path]] = {}
    for fold, names in NAMES.items():
        wanted = {*names, *more.get(fold, ())}
        roots = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.lower() in wanted]
        files = [file for root in roots for file in sorted(root.rglob(pattern))]
        if files:
            files_of[fold] = files
    return files_of if {"train", "test"} <= files_of.keys() else None


def hold_out(
    records: Sequence[Tagged] | Sequence[Labelled],
) -> tuple[list[Tagged | Labelled], list[Tagged | Labelled]]:
    """Split off a tenth of the documents, drawn by a fixed seed, to select by; no document is in both parts."""
    documents = sorted({_document(record) for record in records})
    order = rng.permutation(rng.key(0, "dev"), len(documents)).tolist()
    held = {documents[i] for i in order[: -(-len(documents) // DEV_SHARE)]}
    train = [record for record in records if _document(record) not in held]
    return train, [record for record in records if _document(record) in held]


def _document(record: Tagged | Labelled) -> str:
    return (record.document if isinstance(record, Labelled) else "") or record.id
