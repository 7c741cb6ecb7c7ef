"""Paragraphs of notes that stood before: copied forward within a patient, or a template that many patients share.

Known by hashes alone, in passes over ranges of them, so memory is bounded however many notes there are, and the result depends on the
order of the input alone.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from biomlm.corpus.pipeline.decisions import ONLY_REPEATS, U1, VALID
from biomlm.corpus.pipeline.intermediate import PARAGRAPHS, table

ROWS = 2 << 20  # paragraphs looked at in one pass, about 100 bytes each
REPEATS = np.dtype([("document", "u4"), ("line", "u4"), ("template", "?")])

Table = npt.NDArray[np.void]


@dataclass(frozen=True)
class Treatment:
    """What is done about paragraphs that stood before.

    Args:
        patients: A paragraph that stands in the notes of at least so many patients is a template.
        remove_repeats: Take out what stood in an earlier note of the same patient.
        remove_templates: Take out templates, all but their first occurrence.
    """

    patients: int
    remove_repeats: bool
    remove_templates: bool

    def gone(self, repeats: Table) -> npt.NDArray[np.bool_]:
        """Return which of the repeated paragraphs are taken out, [repeats]."""
        gone: npt.NDArray[np.bool_] = np.where(repeats["template"], self.remove_templates, self.remove_repeats)
        return gone


def find_repeats(work: str | Path, codes: list[U1], patients: int) -> list[Table]:
    """Find paragraphs that stood earlier in the notes of the same patient or in the same note, and templates but for their first place.

    Args:
        work: The working folder.
        codes: For each task, the decision about each document; only kept ones are looked at.
        patients: Of at least so many patients' notes a paragraph is a template.

    Returns:
        For each task rows of `REPEATS`, in the order of documents and lines.
    """
    rows = sum(len(table(work, task, "paragraphs")) for task in range(len(codes)))
    passes = rows // ROWS + 1
    repeats: list[list[Table]] = [[] for _ in codes]
    for number in range(passes):
        for of_task, more in zip(repeats, _of_range(work, codes, patients, number, passes), strict=True):
            of_task.append(more)
    return [np.sort(np.concatenate(of_task), order=("document", "line")) for of_task in repeats]


def _of_range(work: str | Path, codes: list[U1], patients: int, number: int, passes: int) -> list[Table]:
    """Find the repeats among the paragraphs whose hash lies in one of `passes` equal ranges."""
    tables = []
    for task, of_task in enumerate(codes):
        paragraphs = table(work, task, "paragraphs")
        inside = (paragraphs["text"] >> np.uint64(32)) * np.uint64(passes) >> np.uint64(32) == number
        tables.append(paragraphs[inside & (of_task[paragraphs["document"]] <= VALID)])
    together = np.concatenate([np.zeros(0, PARAGRAPHS), *tables])
    repeated = _not_first(together["own"])
    texts, which, owners = np.unique(together["text"], return_inverse=True, return_counts=True)
    owners -= np.bincount(which[repeated], minlength=len(texts))
    template = (owners >= patients)[which] & ~repeated & _not_first(together["text"])
    chosen = np.zeros(len(together), REPEATS)
    chosen["document"], chosen["line"], chosen["template"] = together["document"], together["line"], template
    edges = np.cumsum([len(of_task) for of_task in tables])[:-1]
    flags = np.split(repeated | template, edges)
    return [of_task[flag] for of_task, flag in zip(np.split(chosen, edges), flags, strict=True)]


def _not_first(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Return which rows hold a value that an earlier row holds."""
    again = np.ones(len(values), bool)
    again[np.unique(values, return_index=True)[1]] = False
    return again


def drop_emptied(work: str | Path, codes: list[U1], tables: list[Table], treatment: Treatment) -> None:
    """Mark, in `codes`, documents of which nothing is left when repeats are taken out."""
    for task, (of_task, repeats) in enumerate(zip(codes, tables, strict=True)):
        lost = np.bincount(repeats["document"][treatment.gone(repeats)], minlength=len(of_task))
        of_task[(lost > 0) & (lost == table(work, task, "keys")["lines"])] = ONLY_REPEATS
