"""The ways in which data sets are published, recognized by the names of a folder's files; a folder in none of them holds tables or tags."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from biomlm.finetune.data import splits
from biomlm.finetune.data.dropped import Dropped
from biomlm.finetune.data.labelling import CHOICE, CLASS, CLASSES, NUMBER, RELATION, TAGS, Labelling
from biomlm.finetune.data.readers import blurb, chemprot, ddi, i2b2, medmentions, qa

Files = Mapping[str, Sequence[Path]]
Types = Mapping[str, str] | None


@dataclass(frozen=True)
class Layout:
    """A published layout.

    Args:
        holds: Which labels its records have; some layouts are shared by data sets of several kinds.
        find: Folder → the files of `train`, `test` and, where there is one, `dev`; None if the folder is not in this layout.
        read: Files of a fold, the fold's name and where to count what is left out → its records.
    """

    holds: tuple[Labelling, ...]
    find: Callable[[Path], Files | None]
    read: Callable[[Sequence[Path], str, Dropped], Sequence[Any]]


def _named(pattern: str) -> Callable[[Path], Files | None]:
    """Build a finder of sets that are published as one file a fold, of such names."""
    return partial(splits.named, names={fold: pattern.format(fold) for fold in splits.NAMES})


LAYOUTS = (
    Layout((CLASS,), qa.find_pubmedqa, qa.read_pubmedqa),
    Layout((CLASS,), partial(splits.named, names=qa.PUBMEDQA_FOLDS), qa.read_pubmedqa_fold),
    Layout((CLASS,), qa.find_bioasq, qa.read_bioasq),
    Layout((CLASS,), _named("mli_{}_v1.jsonl"), partial(qa.read_columns, columns=qa.MEDNLI, labelling=CLASS)),
    Layout((CHOICE,), qa.find_mmlu, qa.read_mmlu),
    Layout(
        (CHOICE,),
        _named("phrases_no_exclude_{}.jsonl"),
        partial(qa.read_columns, columns=qa.MEDQA, labelling=CHOICE),
    ),
    Layout((RELATION,), chemprot.find, chemprot.read),
    Layout((RELATION,), ddi.find, ddi.read),
    Layout((RELATION,), i2b2.find_relations, i2b2.read_relations),
    Layout((CLASS, RELATION, CLASSES, NUMBER), blurb.find_tables, blurb.read_tables),
    Layout((CLASS, RELATION, CLASSES, NUMBER, CHOICE), blurb.find_lines, blurb.read_lines),
    Layout((TAGS,), blurb.find_lines, blurb.read_tagged_lines),
    Layout((TAGS,), i2b2.find_concepts, i2b2.read_concepts),
    Layout((TAGS,), i2b2.find_xml, i2b2.read_markup),
)


def detect(
    folder: Path, labelling: Labelling, types: Types
) -> tuple[Files, Callable[[Sequence[Path], str, Dropped], Sequence[Any]]] | None:
    """Return the files of a folder's folds and their reader, if the folder is in a published layout of such labels.

    Args:
        folder: The data set's.
        labelling: What the run's task learns from.
        types: For MedMentions: type in the file → type of the entity.
    """
    with_types = Layout((TAGS,), medmentions.find, partial(medmentions.read, types=types))
    for layout in (with_types, *LAYOUTS):
        if labelling in layout.holds and (files := layout.find(folder)):
            return files, layout.read
    return None
