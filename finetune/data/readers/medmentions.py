"""MedMentions as published: one PubTator file and a list of ids for each fold; and the 21 types of its subset ST21pv.

The full corpus names any of UMLS's 127 semantic types, the subset 21 of them, each of which stands for what is below it in the
semantic network (Mohan and Li 2019, arXiv 1902.09476; tree numbers of UMLS's SRDEF, 2017AA).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from biomlm.core.errors import DataError
from biomlm.finetune.data.dropped import Dropped
from biomlm.finetune.data.readers.pubtator import read_pubtator
from biomlm.finetune.data.records import Tagged
from biomlm.inputs.streams import bare_name, read_text

LISTS = {"train": "trng", "dev": "dev", "test": "test"}
PREFIX = "corpus_pubtator_pmids_"

# Type of ST21pv → the types below it.
BELOW = {
    "T005": "",  # Virus
    "T007": "",  # Bacterium
    "T017": "T018 T019 T020 T021 T023 T024 T025 T026 T028 T190",  # Anatomical Structure
    "T022": "",  # Body System
    "T031": "",  # Body Substance
    "T033": "T034 T184",  # Finding
    "T037": "",  # Injury or Poisoning
    "T038": "T039 T040 T041 T042 T043 T044 T045 T046 T047 T048 T049 T050 T191",  # Biologic Function
    "T058": "T059 T060 T061",  # Health Care Activity
    "T062": "T063",  # Research Activity
    "T074": "T203",  # Medical Device
    "T082": "T029 T030 T083 T085 T086 T087 T088",  # Spatial Concept
    "T091": "",  # Biomedical Occupation or Discipline
    "T092": "T093 T094 T095",  # Organization
    "T097": "",  # Professional or Occupational Group
    "T098": "T099 T100 T101",  # Population Group
    "T103": "T104 T109 T114 T116 T120 T121 T122 T123 T125 T126 T127 T129 T130 T131 T192 T195 T196 T197",
    "T168": "",  # Food
    "T170": "T089 T185",  # Intellectual Product
    "T201": "",  # Clinical Attribute
    "T204": "T002 T004 T008 T010 T011 T012 T013 T014 T015 T016",  # Eukaryote
}
ST21PV = {kind: root for root, below in BELOW.items() for kind in (root, *below.split())}


def find(folder: Path) -> dict[str, list[Path]] | None:
    """Find the corpus and the list of ids of each fold, if the folder has the lists."""
    lists = {fold: folder / f"{PREFIX}{name}.txt" for fold, name in LISTS.items()}
    corpus = [p for p in folder.iterdir() if bare_name(p.name).endswith(".txt") and not p.name.startswith(PREFIX)]
    if len(corpus) != 1 or not all(path.is_file() for path in lists.values()):
        return None
    return {fold: [corpus[0], path] for fold, path in lists.items()}


def read(paths: Sequence[Path], fold: str, dropped: Dropped, types: Mapping[str, str] | None) -> list[Tagged]:  # noqa: ARG001
    """Read the documents of one fold.

    Args:
        paths: The corpus and the fold's list.
        fold: Its name.
        dropped: Where to count what is left out.
        types: See `read_pubtator`.

    Raises:
        DataError: The corpus has none of the listed documents, or is malformed.
    """
    corpus, listed = paths
    ids = set(read_text(listed).split())
    records = read_pubtator(corpus, dropped, types, only=ids)
    if not records:
        raise DataError(
            f"none of its ids is in {corpus.name}", file=listed, remedy="Use the lists of the same release."
        )
    dropped.missing_documents += len(ids) - len(records)
    return records


def semantic_groups(path: Path) -> dict[str, str]:
    """Map a UMLS semantic type to its group's abbreviation, from `SemGroups.txt` (`ACTI|Activities & Behaviors|T052|Activity`).

    Raises:
        DataError: A line with another number of fields.
    """
    return {kind: group for kind, (group, _) in _semantic(path).items()}


def st21pv(path: Path | None) -> dict[str, str]:
    """Map a UMLS semantic type to the type of ST21pv that it is or stands below: its name if there is a `SemGroups.txt`, else its id.

    Raises:
        DataError: The file is malformed or lacks one of the 21.
    """
    if path is None:
        return ST21PV
    names = {kind: name for kind, (_, name) in _semantic(path).items()}
    missing = BELOW.keys() - names.keys()
    if missing:
        raise DataError(
            f"it lacks the type {min(missing)}", file=path, remedy="Give UMLS's SemGroups.txt of 2018 or later."
        )
    return {kind: names[root].replace(" ", "_") for kind, root in ST21PV.items()}


def _semantic(path: Path) -> dict[str, tuple[str, str]]:
    if not path.is_file():
        raise DataError("there is no such file", file=path, remedy="Give UMLS's SemGroups.txt.")
    types = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        fields = line.split("|")
        if len(fields) != 4:
            raise DataError("four fields were expected", file=path, record=f"line {number}", remedy="Give UMLS's file.")
        types[fields[2]] = (fields[0], fields[3])
    return types
