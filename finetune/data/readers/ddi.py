"""Reader of the DDI corpus (SemEval 2013, task 9): XML files of sentences with drugs, and whether each pair of them interacts.

A record is a pair; its label is `DDI-` and the kind of interaction, or `DDI-false`, as in BLURB. The corpus has no development
fold: BLURB's is had by moving the files that it lists into `dev/`, else a tenth of the documents is held out.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lxml import etree

from biomlm.core.errors import DataError
from biomlm.finetune.data import splits
from biomlm.finetune.data.dropped import Dropped
from biomlm.finetune.data.entity_markers import mark_entities
from biomlm.finetune.data.iob_tags import Span
from biomlm.finetune.data.records import Labelled
from biomlm.inputs.xml import read_xml

NONE = "DDI-false"
REMEDY = "Use the corpus' own files."


def find(folder: Path) -> dict[str, list[Path]] | None:
    """Find the XML files of each fold (`Train/`, `Test/`), if the folder has such."""
    return splits.folders(folder, {}, "*.xml")


def read(paths: Sequence[Path], fold: str, dropped: Dropped) -> list[Labelled]:  # noqa: ARG001
    """Read one fold.

    Raises:
        DataError: A sentence without text, a pair of unknown drugs, or offsets outside the sentence.
    """
    return [
        record for path in paths for sentence in read_xml(path).iter("sentence") for record in _pairs(path, sentence)
    ]


def _pairs(path: Path, sentence: etree._Element) -> Iterator[Labelled]:
    text, document = sentence.get("text", ""), sentence.get("id", "").rpartition(".")[0]
    drugs = {entity.get("id"): _span(path, entity, text) for entity in sentence.iter("entity")}
    for pair in sentence.iter("pair"):
        name, ends = pair.get("id", ""), (pair.get("e1"), pair.get("e2"))
        kind = pair.get("type") if pair.get("ddi") == "true" else "false"
        if kind is None or not drugs.keys() >= set(ends):
            problem = "a pair names a drug that its sentence lacks, or an interaction of no kind"
            raise DataError(problem, file=path, record=name, remedy=REMEDY)
        marked = mark_entities(text, (drugs[ends[0]], drugs[ends[1]]), both="DRUG-DRUG")
        yield Labelled(name, (marked,), (f"DDI-{kind}",), document=document)


def _span(path: Path, entity: etree._Element, text: str) -> Span:
    """Return a drug's span from its first character to its last (which the corpus counts in), over the gaps of one in several pieces."""
    ends = [int(number) for number in re.findall(r"\d+", entity.get("charOffset", ""))]
    if len(ends) < 2 or not ends[0] <= ends[-1] < len(text):
        problem = "the offsets lie outside the sentence"
        raise DataError(problem, file=path, record=entity.get("id", ""), remedy=REMEDY)
    return Span(ends[0], ends[-1] + 1, "DRUG")
