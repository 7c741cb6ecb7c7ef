"""A data set's folder → its three folds; and what must not be: an empty fold, labels unseen in training, training texts in the test."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biolm.core.errors import ConfigError, DataError
from biolm.core.files import sha256
from biolm.finetune import qa
from biolm.finetune.brat import read_brat
from biolm.finetune.config import TAGGING, FinetuneConfig
from biolm.finetune.iob import read_iob, read_text
from biolm.finetune.pubtator import Dropped, read_pubtator
from biolm.finetune.records import Labelled, Tagged
from biolm.finetune.spans import UNTYPED, tag_type
from biolm.finetune.tables import ENDINGS as TABLES
from biolm.finetune.tables import read_table

NAMES = {"train": ("train",), "dev": ("devel", "dev", "valid"), "test": ("test",)}
IOB, PUBTATOR = (".tsv",), (".txt", ".pubtator")


@dataclass
class DataSet:
    """What was read.

    Args:
        files: Every file that was.
        folds: `train`, `dev`, `test` → records, `Tagged` or `Labelled`.
        origin: The file to name for each fold.
        notes: What was left out, by reason.
    """

    files: list[Path]
    folds: dict[str, Any]
    origin: dict[str, Path]
    notes: dict[str, int] = field(default_factory=dict)

    def hashes(self) -> dict[str, str]:
        """Of every file, for the manifest."""
        return {f"{path.parent.name}/{path.name}": sha256(path) for path in self.files}


def read(config: FinetuneConfig) -> DataSet:
    """Read the data set of a run and check it.

    Raises:
        DataError: A file is missing or malformed, a fold is empty, or a label does not occur in training.
    """
    folder = Path(config.data)
    if not folder.is_dir():
        raise DataError("there is no such folder", file=folder, remedy="Give the folder of a data set to --data.")
    data = _read_tagged(folder, config) if config.task in TAGGING else _read_labelled(folder, config)
    for fold, records in data.folds.items():
        if not records:
            remedy = "Every fold needs records; hold some of the training documents out for a missing one."
            raise DataError("this fold is empty", file=data.origin[fold], remedy=remedy)
    _check_labels(data)
    return data


def find(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """The file of each fold: `train.tsv`, or the one file in `train/`; `.gz` may follow.

    Raises:
        DataError: One of the three is missing, or not alone.
    """
    found = {}
    all_endings = [ending + packed for ending in endings for packed in ("", ".gz")]
    for fold, names in NAMES.items():
        files = [folder / f"{name}{ending}" for name in names for ending in all_endings]
        inside = [p for name in names if (folder / name).is_dir() for p in sorted((folder / name).iterdir())]
        here = [file for file in files if file.is_file()] + [p for p in inside if p.name.endswith(tuple(all_endings))]
        if len(here) != 1:
            problem = "there are several" if here else "there is no"
            tried = " or ".join(file.name for file in here) or f"{names[0]} file ({', '.join(endings)}, also in gzip)"
            raise DataError(f"{problem} {tried}", file=folder, remedy="Put one file for each fold there.")
        found[fold] = here[0]
    return found


def _read_tagged(folder: Path, config: FinetuneConfig) -> DataSet:
    dropped = Dropped()
    groups = read_groups(Path(config.groups)) if config.groups else None
    brat = _brat_folders(folder)
    origin = brat or find(folder, IOB + PUBTATOR)
    if groups is not None and not all(path.name.removesuffix(".gz").endswith(PUBTATOR) for path in origin.values()):
        raise ConfigError("--groups is for PubTator files", remedy="Leave it out.")
    folds = {}
    for fold, path in origin.items():
        if brat:
            records = read_brat(path, dropped)
        elif path.name.removesuffix(".gz").endswith(PUBTATOR):
            records = read_pubtator(path, dropped, groups)
        else:
            records = read_iob(path, fold, repair=config.repair_tags)
        folds[fold] = [record.with_type(config.one_type) for record in records] if config.one_type else records
    notes = {
        "overlapping entities left out": dropped.overlapping,
        "entities in pieces left out": dropped.pieces,
        "entities of other types left out": dropped.types,
    }
    files = [p for path in origin.values() for p in (sorted(path.iterdir()) if path.is_dir() else [path])]
    extra = [Path(config.groups)] if config.groups else []
    return DataSet([*files, *extra], folds, origin, {name: n for name, n in notes.items() if n})


def _brat_folders(folder: Path) -> dict[str, Path] | None:
    """The folder of each fold, if all three are there with `.ann` files in them."""
    found = {}
    for fold, names in NAMES.items():
        here = [folder / name for name in names if (folder / name).is_dir() and any((folder / name).glob("*.ann"))]
        if len(here) == 1:
            found[fold] = here[0]
    return found if len(found) == len(NAMES) else None


def read_groups(path: Path) -> Mapping[str, str]:
    """UMLS semantic type → its group's abbreviation, from `SemGroups.txt` (`ACTI|Activities & Behaviors|T052|Activity`).

    Raises:
        DataError: A line with another number of fields.
    """
    if not path.is_file():
        raise DataError("there is no such file", file=path, remedy="Give UMLS's SemGroups.txt.")
    groups = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        fields = line.split("|")
        if len(fields) != 4:
            raise DataError("four fields were expected", file=path, record=f"line {number}", remedy="Give UMLS's file.")
        groups[fields[2]] = fields[0]
    return groups


def _read_labelled(folder: Path, config: FinetuneConfig) -> DataSet:
    if config.task == "classification" and (questions := qa.pubmedqa_files(folder)):
        origin = {"train": questions["questions"], "dev": questions["questions"], "test": questions["test ids"]}
        return DataSet(list(questions.values()), qa.read_pubmedqa(questions), origin)
    if config.task == "choice" and (subjects := qa.mmlu_files(folder)):
        folds = {fold: qa.read_mmlu(files) for fold, files in subjects.items()}
        return DataSet([f for files in subjects.values() for f in files], folds, dict.fromkeys(folds, folder))
    files = find(folder, TABLES)
    folds = {fold: read_table(path, fold, config.columns, config.task) for fold, path in files.items()}
    return DataSet(list(files.values()), folds, files)


def labels_in(record: Tagged | Labelled) -> set[str]:
    """Entity types or labels of a record."""
    return {tag_type(tag) for tag in record.tags} - {""} if isinstance(record, Tagged) else set(record.labels)


def _check_labels(data: DataSet) -> None:
    """Refuse labels that no training record has: no model could get them right, and most could not even say them."""
    known = {label for record in data.folds["train"] for label in labels_in(record)}
    if not known and isinstance(data.folds["train"][0], Tagged):
        raise DataError("no word carries an entity's tag", file=data.origin["train"], remedy="Check the tags.")
    for fold in ("dev", "test"):
        for record in data.folds[fold]:
            unseen = labels_in(record) - known
            if unseen:
                name = min(unseen).replace(UNTYPED, "without a name")
                problem = f"the label {name} does not occur in the training fold"
                where = f"line {record.line}" if record.line else record.id
                raise DataError(problem, file=data.origin[fold], record=where, remedy="Use folds of one data set.")


def shared(data: DataSet, most: float) -> dict[str, int]:
    """How many development and test records have a text or an id that is in the training fold.

    Args:
        data: The folds.
        most: The largest share that is let pass. Official folds share boilerplate (`A case report .`) and a few duplicates.

    Raises:
        DataError: A fold shares more.
    """
    texts = {record.text for record in data.folds["train"]}
    ids = {record.id for record in data.folds["train"]}
    counts = {}
    for fold in ("dev", "test"):
        records = data.folds[fold]
        counts[fold] = sum(record.text in texts or record.id in ids for record in records)
        if counts[fold] > most * len(records):
            problem = f"{counts[fold]} of {len(records)} records are in the training fold, too, by text or id"
            remedy = "Remove them from one of the folds, or raise --max_shared to score them all the same."
            raise DataError(problem, file=data.origin[fold], remedy=remedy)
    return counts
