"""`biomlm finetune blurb`: the BLURB score, the mean over six task types of each type's mean over its data sets.

Gu et al. 2021 ("Domain-specific language model pretraining for biomedical natural language processing"), thirteen data sets. A type
counts as one whatever the number of its data sets; the score is given only when all thirteen are there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from biomlm.core.errors import ConfigError, DataError
from biomlm.core.files import read_json, refuse_target, with_keys, write_json
from biomlm.core.manifest import read_manifest
from biomlm.core.summary import summary
from biomlm.finetune.tasks.registry import TASKS

TYPES = {
    "named entities": ("BC5-chem", "BC5-disease", "NCBI-disease", "BC2GM", "JNLPBA"),
    "PICO": ("EBM-PICO",),
    "relations": ("ChemProt", "DDI", "GAD"),
    "similarity": ("BIOSSES",),
    "document classification": ("HoC",),
    "question answering": ("PubMedQA", "BioASQ"),
}
DATA_SETS = tuple(name for names in TYPES.values() for name in names)


@dataclass(frozen=True)
class BlurbConfig:
    """Runs on BLURB's data sets.

    Args:
        runs: Pairs `<data set>=<run folder>`; the data sets are BC5-chem, BC5-disease, NCBI-disease, BC2GM, JNLPBA, EBM-PICO, ChemProt,
            DDI, GAD, BIOSSES, HoC, PubMedQA and BioASQ.
        out: A JSON file to write the scores to as well.
    """

    runs: list[str]
    out: str = field(default="", metadata={"runtime": True})

    def __post_init__(self) -> None:
        names = [pair.partition("=")[0] for pair in self.runs]
        odd = [name for name in names if name not in DATA_SETS] or [pair for pair in self.runs if "=" not in pair]
        if odd or len(set(names)) < len(names):
            problem = f"{odd[0]} is no data set of BLURB" if odd else "a data set is named twice"
            raise ConfigError(problem, remedy=f"Give <data set>=<run folder>; data sets are {', '.join(DATA_SETS)}.")


def blurb(scores: Mapping[str, float]) -> dict[str, Any]:
    """Compute the means of the types that are complete, and the score if all are.

    Args:
        scores: Data set → score, from 0 to 1 (or to 100, as the result then is).
    """
    types = {
        kind: fmean(scores[name] for name in names) for kind, names in TYPES.items() if all(n in scores for n in names)
    }
    return {
        "data sets": dict(scores),
        "types": types,
        "missing": [name for name in DATA_SETS if name not in scores],
        "blurb": fmean(types.values()) if len(types) == len(TYPES) else None,
    }


def run(config: BlurbConfig) -> None:
    """Print the scores and, with `out`, write JSON.

    Raises:
        DataError: A run is not finished, or is of another task than BLURB's for that data set.
    """
    folders = [folder for _, _, folder in (pair.partition("=") for pair in config.runs)]
    is_ours = with_keys({"data sets", "types", "missing", "blurb"})
    refuse_target(config.out, folders, option="--out", ours=is_ours, inside=True)
    scores = {name: score_of(name, Path(folder)) for name, _, folder in (pair.partition("=") for pair in config.runs)}
    result = blurb(scores)
    if config.out:
        write_json(config.out, result)
    rows: dict[str, object] = {**scores, **{f"mean of {kind}": value for kind, value in result["types"].items()}}
    rows["missing"] = ", ".join(result["missing"]) or "nothing"
    rows["BLURB"] = "not all data sets are there" if result["blurb"] is None else result["blurb"]
    summary("biomlm finetune blurb", rows)


def score_of(name: str, folder: Path) -> float:
    """Read a finished run's test score in the metric that BLURB takes for the data set."""
    read_manifest(folder, "finetune")
    scores: Any = read_json(folder / "scores.json")
    of_type = next(kind for kind, names in TYPES.items() if name in names)
    task = next(task for task, entry in TASKS.items() if entry.blurb == of_type)
    if scores["task"] != task:
        problem = f"this is a run of the task {scores['task']}, and {name} is one of {task}"
        raise DataError(problem, file=folder, remedy=f"Fine-tune on it with --task {task}.")
    return float(scores["test"][scores["metric"]])
