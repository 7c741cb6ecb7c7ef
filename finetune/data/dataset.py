"""A data set's folder → its three folds; and what must not be: an empty fold, labels unseen in training, training texts in the test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biomlm.core.errors import ConfigError, DataError
from biomlm.core.files import sha256
from biomlm.finetune.config import FinetuneConfig
from biomlm.finetune.data import published, splits
from biomlm.finetune.data.dropped import Dropped
from biomlm.finetune.data.iob_tags import UNTYPED, tag_type
from biomlm.finetune.data.labelling import TAGS, Labelling, letters_of
from biomlm.finetune.data.readers import medmentions
from biomlm.finetune.data.readers.brat import read_brat
from biomlm.finetune.data.readers.columns import ENDINGS as TABLES
from biomlm.finetune.data.readers.columns import read_table
from biomlm.finetune.data.readers.iob import read_iob
from biomlm.finetune.data.readers.json_words import read_words
from biomlm.finetune.data.readers.pubtator import read_pubtator
from biomlm.finetune.data.records import Labelled, Tagged
from biomlm.finetune.data.schema import Columns
from biomlm.finetune.tasks.registry import TASKS
from biomlm.inputs.streams import bare_name

IOB, PUBTATOR, WORDS = (".tsv",), (".txt", ".pubtator"), (".json", ".jsonl")

LONGEST_LABEL = 100  # characters; what is longer is the text of a record, and would stand in scores and configurations


@dataclass
class DataSet:
    """What was read.

    Args:
        files: Every file that was.
        folds: `train`, `dev`, `test` → records, `Tagged` or `Labelled`.
        origin: The file to name for each fold.
        notes: For each fold what was left out, by reason; what is held out of training counts there.
        unseen: Labels of the other folds that the training fold lacks.
    """

    files: list[Path]
    folds: dict[str, Any]
    origin: dict[str, Path]
    notes: dict[str, dict[str, int]] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()

    def hashes(self) -> dict[str, str]:
        """Hash every file, for the manifest."""
        return {f"{path.parent.name}/{path.name}": sha256(path) for path in self.files}

    def error(self, fold: str, record: Tagged | Labelled, problem: str, remedy: str) -> DataError:
        """Build the error for a record that cannot be used; where a fold has several files, the record's id says which."""
        where = f"line {record.line}" if record.line and self.origin[fold].is_file() else record.id
        return DataError(problem, file=self.origin[fold], record=where, remedy=remedy)


def read(config: FinetuneConfig) -> DataSet:
    """Read the data set of a run and check it.

    Raises:
        DataError: A file is missing or malformed, a fold is empty, a label does not occur in training and that is refused, or a record
            has not as many labels or choices as it must.
    """
    folder = Path(config.data)
    if not folder.is_dir():
        raise DataError("there is no such folder", file=folder, remedy="Give the folder of a data set to --data.")
    task = TASKS[config.task].task
    data: DataSet = task.read(folder, config)
    for fold, records in data.folds.items():
        if not records:
            remedy = "Every fold needs records; hold some of the training documents out for a missing one."
            raise DataError("this fold is empty", file=data.origin[fold], remedy=remedy)
    task.check(data, config)
    if task.labelling.learned:
        data.unseen = _unseen(data, refuse=config.unseen_labels == "refuse")
    return data


def _read_published(
    folder: Path, config: FinetuneConfig, labelling: Labelling, types: Mapping[str, str] | None
) -> DataSet | None:
    """Read the folds of a published layout; a tenth of the training documents selects where it has no development fold."""
    layout = published.detect(folder, labelling, types) if config.columns == Columns() else None
    if layout is None:
        return None
    files, reader = layout
    dropped = {fold: Dropped() for fold in files}
    folds = {fold: list(reader(paths, fold, dropped[fold])) for fold, paths in files.items()}
    if "dev" not in folds:
        folds["train"], folds["dev"] = splits.hold_out(folds["train"])
    origin = {fold: _place(files.get(fold, files["train"]), folder) for fold in splits.NAMES}
    paths_read = list(dict.fromkeys(path for paths in files.values() for path in paths))
    return DataSet(paths_read, {fold: folds[fold] for fold in splits.NAMES}, origin, _notes(dropped))


def _place(paths: Sequence[Path], folder: Path) -> Path:
    """Return the path to name in a message: the file, or the folder of several."""
    return paths[0] if len(paths) == 1 else folder


def _types(config: FinetuneConfig) -> Mapping[str, str] | None:
    """Return the map of types that --groups and --st21pv ask for."""
    groups = Path(config.groups) if config.groups else None
    if config.st21pv:
        return medmentions.st21pv(groups)
    return medmentions.semantic_groups(groups) if groups else None


def read_tagged(folder: Path, config: FinetuneConfig) -> DataSet:
    """Read words with tags: a published layout, IOB files, PubTator's, words as JSON, or folders of brat's."""
    types = _types(config)
    data = _read_published(folder, config, TAGS, types) or _read_tags(folder, config, types)
    if config.one_type:
        data.folds = {fold: [record.with_type(config.one_type) for record in data.folds[fold]] for fold in data.folds}
    if config.groups:
        data.files.append(Path(config.groups))
    return data


def _read_tags(folder: Path, config: FinetuneConfig, types: Mapping[str, str] | None) -> DataSet:
    brat = _brat_folders(folder)
    origin = brat or splits.find(folder, IOB + PUBTATOR + WORDS)
    if types is not None and not all(_ends(path, PUBTATOR) for path in origin.values()):
        raise ConfigError("--groups and --st21pv are for PubTator files", remedy="Leave them out.")
    named = "" if config.columns == Columns() else config.columns.label
    if named and not all(_ends(path, WORDS) for path in origin.values()):
        raise ConfigError("--columns.label names a set of tags in JSON files of words", remedy="Leave it out.")
    folds: dict[str, Any] = {}
    dropped = {fold: Dropped() for fold in origin}
    for fold, path in origin.items():
        if brat:
            folds[fold] = read_brat(path, dropped[fold])
        elif _ends(path, PUBTATOR):
            folds[fold] = read_pubtator(path, dropped[fold], types)
        elif _ends(path, WORDS):
            folds[fold] = read_words(path, fold, named)
        else:
            folds[fold] = read_iob(path, fold, repair=config.repair_tags)
    files = [p for path in origin.values() for p in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return DataSet(files, folds, origin, _notes(dropped))


def _notes(dropped: Mapping[str, Dropped]) -> dict[str, dict[str, int]]:
    return {fold: counts.notes() for fold, counts in dropped.items() if counts.notes()}


def _ends(path: Path, endings: tuple[str, ...]) -> bool:
    return bare_name(path.name).endswith(endings)


def _brat_folders(folder: Path) -> dict[str, Path] | None:
    """Find the folder of each fold, if all three are there with `.ann` files in them."""
    of_fold = {}
    for fold, names in splits.NAMES.items():
        candidates = [
            folder / name for name in names if (folder / name).is_dir() and any((folder / name).glob("*.ann"))
        ]
        if len(candidates) == 1:
            of_fold[fold] = candidates[0]
    return of_fold if len(of_fold) == len(splits.NAMES) else None


def read_labelled(folder: Path, config: FinetuneConfig, labelling: Labelling) -> DataSet:
    """Read texts with labels: a published layout, or tables."""
    if data := _read_published(folder, config, labelling, None):
        return data
    files = splits.find(folder, TABLES)
    folds = {fold: read_table(path, fold, config.columns, labelling) for fold, path in files.items()}
    return DataSet(list(files.values()), folds, files)


def labels_in(record: Tagged | Labelled) -> set[str]:
    """Return the entity types or labels of a record."""
    return {tag_type(tag) for tag in record.tags} - {""} if isinstance(record, Tagged) else set(record.labels)


def _unseen(data: DataSet, *, refuse: bool) -> tuple[str, ...]:
    """Find labels that no training record has: no model could get them right, and most could not even predict them."""
    for fold, records in data.folds.items():
        for record in records:
            if any(len(label) > LONGEST_LABEL or not label.isprintable() for label in labels_in(record)):
                problem = f"a label has over {LONGEST_LABEL} characters or a line end, as texts have and names have not"
                raise data.error(fold, record, problem, "Name the column of the labels with --columns.label.")
    in_training = {label for record in data.folds["train"] for label in labels_in(record)}
    if not in_training:
        tagged = isinstance(data.folds["train"][0], Tagged)
        problem = "no word carries an entity's tag" if tagged else "no record has a label"
        raise DataError(problem, file=data.origin["train"], remedy="Check the tags, or the column of the labels.")
    missing: set[str] = set()
    for fold in ("dev", "test"):
        for record in data.folds[fold]:
            unseen = labels_in(record) - in_training
            if unseen and refuse:
                name = min(unseen).replace(UNTYPED, "without a name")
                problem = f"the label {name} does not occur in the training fold"
                remedy = "Use folds of one data set, or say --unseen_labels count to score such labels as missed."
                raise data.error(fold, record, problem, remedy)
            missing |= unseen
    return tuple(sorted(missing))


def check_numbers(data: DataSet, labelling: Labelling, task: str) -> None:
    """Refuse records of another kind of task, as some layouts hold several kinds.

    Raises:
        DataError: A record has not as many labels as it must.
    """
    for fold, records in data.folds.items():
        for record in records:
            if labelling.number is not None and len(record.labels) != labelling.number:
                problem = f"the task {task} takes {'one label' if labelling.number else 'a number'} a record"
                raise data.error(fold, record, problem, "Use the task that the data set is for, or mend the record.")


def check_choices(data: DataSet) -> None:
    """Refuse questions with other choices than the first one's: the letters of its choices are the labels.

    Raises:
        DataError: A question has more or fewer, fewer than two, or more than there are letters.
    """
    choices = len(data.folds["train"][0].texts) - 1
    for fold, records in data.folds.items():
        for record in records:
            number = len(record.texts) - 1
            if number != choices or not 2 <= number <= len(letters_of(number)):
                problem = f"{number} choices" + (f", {choices} before" if number != choices else "")
                remedy = "Every question needs as many choices, from 2 to 26; name them with --columns.choices."
                raise data.error(fold, record, problem, remedy)


def count_shared(data: DataSet, most: float) -> dict[str, dict[str, int]]:
    """Count the records of a fold whose text or id is in a fold before it: dev in train, test in train and in dev.

    Texts are the same whatever their case and white space.

    Args:
        data: The folds.
        most: The largest share that is let pass. Official folds share boilerplate (`A case report .`) and a few duplicates.

    Raises:
        DataError: A fold shares more.
    """
    texts = {fold: [_squeezed(record.text) for record in records] for fold, records in data.folds.items()}
    counts: dict[str, dict[str, int]] = {"dev": {}, "test": {}}
    for fold, before in (("dev", "train"), ("test", "train"), ("test", "dev")):
        seen_texts, seen_ids = set(texts[before]), {record.id for record in data.folds[before]}
        records = data.folds[fold]
        same = [text in seen_texts or record.id in seen_ids for text, record in zip(texts[fold], records, strict=True)]
        counts[fold][f"also in {before}"] = sum(same)
        if sum(same) > most * len(records):
            name = {"train": "training", "dev": "development"}[before]
            problem = f"{sum(same)} of {len(records)} records are in the {name} fold, too, by text or id"
            remedy = "Remove them from one of the folds, or raise --max_shared to score them all the same."
            raise DataError(problem, file=data.origin[fold], remedy=remedy)
    return counts


def _squeezed(text: str) -> str:
    return "".join(text.casefold().split())
