"""The three folds of a data set's folder, and what must not be: an empty fold, labels unseen in training, training texts in the test."""

from collections.abc import Sequence
from pathlib import Path

from biolm.core.errors import DataError
from biolm.finetune.iob import read_iob
from biolm.finetune.records import Tagged
from biolm.finetune.spans import tag_type

NAMES = {"train": ("train",), "dev": ("devel", "dev"), "test": ("test",)}
ENDINGS = (".tsv", ".tsv.gz")


def find(folder: str | Path) -> dict[str, Path]:
    """The file of each fold.

    Raises:
        DataError: The folder or one of the three is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("there is no such folder", file=folder, remedy="Give the folder of a data set to --data.")
    found = {}
    for fold, names in NAMES.items():
        files = [folder / f"{name}{ending}" for name in names for ending in ENDINGS]
        here = [file for file in files if file.is_file()]
        if len(here) != 1:
            problem = "there are several" if here else "there is no"
            names_tried = " or ".join(file.name for file in here or files)
            raise DataError(f"{problem} {names_tried}", file=folder, remedy="Put one file for each fold there.")
        found[fold] = here[0]
    return found


def read_tagged(files: dict[str, Path], *, repair: bool) -> dict[str, list[Tagged]]:
    """Read the folds of an IOB data set.

    Raises:
        DataError: A file is malformed or empty, or has an entity type that the training fold lacks.
    """
    folds = {fold: read_iob(path, fold, repair=repair) for fold, path in files.items()}
    for fold, records in folds.items():
        if not records:
            remedy = "Every fold needs sentences; hold some of the training documents out for a missing one."
            raise DataError("this fold is empty", file=files[fold], remedy=remedy)
    known = {tag_type(tag) for record in folds["train"] for tag in record.tags}
    if known == {""}:
        raise DataError("no word carries an entity's tag", file=files["train"], remedy="Check the last column.")
    for fold in ("dev", "test"):
        for record in folds[fold]:
            unseen = {tag_type(tag) for tag in record.tags} - known
            if unseen:
                problem = f"the entity type {min(unseen)} does not occur in the training fold"
                where = f"sentence at line {record.line}"
                raise DataError(problem, file=files[fold], record=where, remedy="Use folds of one data set.")
    return folds


def shared(folds: dict[str, list[Tagged]], files: dict[str, Path], most: float) -> dict[str, int]:
    """How many development and test records have a text that is in the training fold.

    Args:
        folds: From `read_tagged`.
        files: Their files, for the message.
        most: The largest share that is let pass. Official folds share boilerplate (`A case report .`) and a few duplicates.

    Raises:
        DataError: A fold shares more.
    """
    texts = _texts(folds["train"])
    counts = {}
    for fold in ("dev", "test"):
        counts[fold] = sum(record.text in texts for record in folds[fold])
        if counts[fold] > most * len(folds[fold]):
            problem = f"{counts[fold]} of {len(folds[fold])} texts are in the training fold, too"
            remedy = "Remove them from one of the folds, or raise --max_shared to score them all the same."
            raise DataError(problem, file=files[fold], remedy=remedy)
    return counts


def _texts(records: Sequence[Tagged]) -> set[str]:
    return {record.text for record in records}
