"""Readers of question answering as it is distributed: PubMedQA's labelled set and MMLU's subjects."""

import csv
import io
from pathlib import Path
from typing import Any

import orjson

from biolm.core import rng
from biolm.core.errors import DataError
from biolm.finetune.iob import read_text
from biolm.finetune.records import Labelled
from biolm.finetune.tables import letters_of

PUBMEDQA = ("ori_pqal.json", "ori_pqal.json.gz")
PUBMEDQA_TEST = "test_ground_truth.json"
DEV_SHARE = 10  # PubMedQA's own script holds a tenth of what is not test out, too
ANSWERS = ("yes", "no", "maybe")
MMLU = {"train": "val", "dev": "dev", "test": "test"}


def pubmedqa_files(folder: Path) -> dict[str, Path] | None:
    """The labelled set and the official test ids, if the folder has them."""
    found = [folder / name for name in PUBMEDQA if (folder / name).is_file()]
    ids = folder / PUBMEDQA_TEST
    return {"questions": found[0], "test ids": ids} if found and ids.is_file() else None


def read_pubmedqa(files: dict[str, Path]) -> dict[str, list[Labelled]]:
    """Question and abstract without its conclusion, answered yes, no or maybe; test is the official 500 ids.

    Of the others a tenth, drawn by a fixed seed, selects; their published cross-validation folds depend on an old Python's shuffling.

    Raises:
        DataError: A file is malformed, or a test id is not among the questions or answered otherwise there.
    """
    questions, test = _object(files["questions"]), _object(files["test ids"])
    odd = [name for name, answer in test.items() if questions.get(name, {}).get("final_decision") != answer]
    if odd:
        problem = f"{len(odd)} test ids are not in {files['questions'].name}, or answered otherwise there"
        raise DataError(problem, file=files["test ids"], record=odd[0], remedy="Use the two files of one release.")
    records = {name: _question(files["questions"], name, entry) for name, entry in sorted(questions.items())}
    rest = [record for name, record in records.items() if name not in test]
    order = rng.permutation(rng.key(0, "pubmedqa"), len(rest)).tolist()
    held = set(order[: len(rest) // DEV_SHARE])
    return {
        "train": [record for i, record in enumerate(rest) if i not in held],
        "dev": [record for i, record in enumerate(rest) if i in held],
        "test": [records[name] for name in sorted(test)],
    }


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


def mmlu_files(folder: Path) -> dict[str, list[Path]] | None:
    """The files of each fold, if the folder has subjects of MMLU (`<subject>_{dev,val,test}.csv`): val trains, dev selects."""
    found = {fold: sorted(folder.glob(f"*_{name}.csv")) for fold, name in MMLU.items()}
    return found if all(found.values()) else None


def read_mmlu(files: list[Path]) -> list[Labelled]:
    """Questions with four choices from files without a head line: question, four choices, the right one's letter.

    Raises:
        DataError: A line with another number of fields or another letter.
    """
    records = []
    for path in files:
        reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
        for number, row in enumerate(reader, start=1):
            if len(row) != 6 or row[5] not in letters_of(4):
                problem = "six fields were expected: a question, four choices, a letter from A to D"
                raise DataError(problem, file=path, record=f"line {reader.line_num}", remedy="Mend that line.")
            records.append(Labelled(f"{path.stem}:{number}", tuple(row[:5]), (row[5],), line=reader.line_num))
    return records
