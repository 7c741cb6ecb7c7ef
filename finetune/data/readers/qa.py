"""Readers of question answering as it is distributed: PubMedQA, BioASQ's yes/no questions, MedQA-USMLE and MMLU's subjects; and MedNLI."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from biomlm.core.errors import DataError
from biomlm.finetune.data.dropped import Dropped
from biomlm.finetune.data.labelling import Labelling, letters_of
from biomlm.finetune.data.readers.columns import read_table
from biomlm.finetune.data.records import Labelled
from biomlm.finetune.data.schema import Columns
from biomlm.inputs import tables
from biomlm.inputs.streams import read_text

PUBMEDQA = ("ori_pqal.json", "ori_pqal.json.gz")
PUBMEDQA_TEST = "test_ground_truth.json"
PUBMEDQA_FOLDS = {"train": "pqal_fold0/train_set.json", "dev": "pqal_fold0/dev_set.json", "test": "test_set.json"}
MEDQA = Columns(text="question", label="answer_idx", choices=("options",))
MEDNLI = Columns(text="sentence1", pair="sentence2", label="gold_label", id="pairID")
BIOASQ = {"train": "*train*.json", "dev": "*dev*.json", "test": "*golden*.json"}
ANSWERS = ("yes", "no", "maybe")
MMLU = {"train": "val", "dev": "dev", "test": "test"}


def find_pubmedqa(folder: Path) -> dict[str, list[Path]] | None:
    """Find the labelled set and the official test ids, if the folder has them."""
    questions = [folder / name for name in PUBMEDQA if (folder / name).is_file()]
    ids = folder / PUBMEDQA_TEST
    return {fold: [questions[0], ids] for fold in ("train", "test")} if questions and ids.is_file() else None


def read_pubmedqa(paths: Sequence[Path], fold: str, dropped: Dropped) -> list[Labelled]:  # noqa: ARG001
    """Read question and abstract without its conclusion, answered yes, no or maybe; test is the official 500 ids, train the others.

    The published cross-validation folds of the latter depend on an old Python's shuffling.

    Raises:
        DataError: A file is malformed, or a test id is not among the questions or answered otherwise there.
    """
    questions, test = (_object(path) for path in paths)
    odd = [name for name, answer in test.items() if name not in questions or _decision(questions[name]) != answer]
    if odd:
        problem = f"{len(odd)} test ids are not in {paths[0].name}, or answered otherwise there"
        raise DataError(problem, file=paths[1], record=odd[0], remedy="Use the two files of one release.")
    wanted = test.keys() if fold == "test" else questions.keys() - test.keys()
    return [_question(paths[0], name, questions[name]) for name in sorted(wanted)]


def _decision(entry: Any) -> Any:
    return entry.get("final_decision") if isinstance(entry, dict) else None


def read_pubmedqa_fold(paths: Sequence[Path], fold: str, dropped: Dropped) -> list[Labelled]:  # noqa: ARG001
    """Read one of the three files that PubMedQA's own script makes, as BLURB keeps them.

    Raises:
        DataError: A file is malformed.
    """
    return [_question(path, name, entry) for path in paths for name, entry in _object(path).items()]


def find_bioasq(folder: Path) -> dict[str, list[Path]] | None:
    """Find BioASQ's training file and golden test batches (`7B1_golden.json` …), anywhere below."""
    folds = {fold: sorted(folder.rglob(pattern)) for fold, pattern in BIOASQ.items()}
    return {fold: files for fold, files in folds.items() if files} if folds["train"] and folds["test"] else None


def read_bioasq(paths: Sequence[Path], fold: str, dropped: Dropped) -> list[Labelled]:  # noqa: ARG001
    """Read the yes/no questions, each with its snippets.

    Raises:
        DataError: A file has no questions, or a question lacks its text, its snippets or its answer.
    """
    return [record for path in paths for record in _bioasq(path)]


def _bioasq(path: Path) -> Iterator[Labelled]:
    questions = _object(path).get("questions")
    if not isinstance(questions, list):
        raise DataError("it has no list of questions", file=path, remedy="Use BioASQ's own files.")
    for number, entry in enumerate(questions, start=1):
        if not isinstance(entry, dict) or entry.get("type") == "yesno":
            try:
                texts = (str(entry["body"]), " ".join(str(snippet["text"]) for snippet in entry["snippets"]))
                answer = str(entry["exact_answer"]).lower()
                name = str(entry["id"])
            except (KeyError, TypeError):
                where = f"question {number}"
                problem = "a field of this question is missing"
                raise DataError(problem, file=path, record=where, remedy="Use BioASQ's own files.") from None
            if answer not in ("yes", "no"):
                raise DataError("the answer is not yes or no", file=path, record=name, remedy="Use BioASQ's own files.")
            yield Labelled(name, texts, (answer,))


def _object(path: Path) -> dict[str, Any]:
    try:
        value = orjson.loads(read_text(path))
    except orjson.JSONDecodeError as error:
        raise DataError(
            "this is not valid JSON", file=path, record=f"line {error.lineno}", remedy="Get it again."
        ) from None
    if not isinstance(value, dict):
        raise DataError("a JSON object was expected", file=path, remedy="Get the file again.")
    return value


def _question(path: Path, name: str, entry: Any) -> Labelled:
    try:
        texts = (str(entry["QUESTION"]), " ".join(entry["CONTEXTS"]))
        answer = entry["final_decision"]
    except (KeyError, TypeError):
        raise DataError(
            "a field of this question is missing", file=path, record=name, remedy="Get the file again."
        ) from None
    if answer not in ANSWERS:
        raise DataError("the answer is not yes, no or maybe", file=path, record=name, remedy="Get the file again.")
    return Labelled(name, texts, (answer,))


def find_mmlu(folder: Path) -> dict[str, list[Path]] | None:
    """Find the files of each fold, if the folder has subjects of MMLU (`<subject>_{dev,val,test}.csv`): val trains, dev selects."""
    subjects = {fold: sorted(folder.glob(f"*_{name}.csv")) for fold, name in MMLU.items()}
    return subjects if all(subjects.values()) else None


def read_mmlu(paths: Sequence[Path], fold: str, dropped: Dropped) -> list[Labelled]:  # noqa: ARG001
    """Read questions with four choices from files without a head line: question, four choices, the right one's letter.

    Raises:
        DataError: A line is broken, or has another number of fields or another letter.
    """
    records = []
    for path in paths:
        for number, (line, row) in enumerate(tables.whole_lists(path), start=1):
            if len(row) != 6 or row[5] not in letters_of(4):
                problem = "six fields were expected: a question, four choices, a letter from A to D"
                raise DataError(problem, file=path, record=f"line {line}", remedy="Mend that line.")
            records.append(Labelled(f"{path.stem}:{number}", tuple(row[:5]), (row[5],), line=line))
    return records


def read_columns(
    paths: Sequence[Path],
    fold: str,
    dropped: Dropped,  # noqa: ARG001
    *,
    columns: Columns,
    labelling: Labelling,
) -> list[Labelled]:
    """Read one fold of a set that is published as a table: MedQA-USMLE's questions with four choices, MedNLI.

    Raises:
        DataError: A line lacks a field.
    """
    return [record for path in paths for record in read_table(path, fold, columns, labelling)]
