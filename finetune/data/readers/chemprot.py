"""Reader of ChemProt as BioCreative VI distributes it: abstracts, entities and relations of each fold in three TSV files.

A record is a chemical and a gene of one sentence; its label is the relation's group, or `false`. Groups other than the five that
were evaluated count as `false`, as in BLURB. BLURB cut sentences with NLTK's model and this reader by a rule, so pairs at odd full
stops differ: for figures to set beside BLURB's, read the files that its script makes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from biomlm.core.errors import DataError
from biomlm.finetune.data.dropped import Dropped
from biomlm.finetune.data.entity_markers import mark_entities, sentences, shift_span
from biomlm.finetune.data.iob_tags import Span
from biomlm.finetune.data.records import Labelled
from biomlm.inputs.streams import read_text

FOLDS = {"train": "training", "dev": "development", "test": "test"}
EVALUATED = ("CPR:3", "CPR:4", "CPR:5", "CPR:6", "CPR:9")
NONE = "false"
REMEDY = "Use the corpus' own files, or those that BLURB's script makes."
Entities = dict[str, Span]


def find(folder: Path) -> dict[str, list[Path]] | None:
    """Find abstracts, entities and relations of each fold, if the folder has them anywhere below."""
    files_of = {}
    for fold, name in FOLDS.items():
        kinds = [
            sorted(folder.rglob(f"chemprot_{name}_{kind}*.tsv")) for kind in ("abstracts", "entities", "relations")
        ]
        if all(len(files) == 1 for files in kinds):
            files_of[fold] = [file for files in kinds for file in files]
    return files_of if {"train", "test"} <= files_of.keys() else None


def read(paths: Sequence[Path], fold: str, dropped: Dropped) -> list[Labelled]:  # noqa: ARG001
    """Read one fold.

    Raises:
        DataError: A line with too few columns, or offsets that do not point at their mention.
    """
    abstracts, entities_file, relations_file = paths
    texts = {name: (line, f"{title}\t{body}") for line, (name, title, body, *_) in _rows(abstracts, 3)}
    entities: dict[str, Entities] = {name: {} for name in texts}
    for line, (name, number, kind, start, stop, mention, *_) in _rows(entities_file, 6):
        span = _span(entities_file, line, texts.get(name, (0, ""))[1], (start, stop), mention, kind)
        entities[name][number] = span
    relations: dict[tuple[str, str, str], str] = {}
    for _, (name, group, _, _, one, two, *_) in _rows(relations_file, 6):
        pair = (name, one.rpartition(":")[2], two.rpartition(":")[2])
        if group in EVALUATED:
            relations[pair] = group
    records = [
        record
        for name, (line, text) in texts.items()
        for record in _candidates(name, text, line, entities[name], relations)
    ]
    dropped.across_sentences += len(relations) - sum(r.labels != (NONE,) for r in records)
    return records


def _rows(path: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        fields = line.rstrip("\r").split("\t")
        if not line.strip():
            continue
        if len(fields) < columns:
            problem = f"{len(fields)} columns where {columns} were expected"
            raise DataError(problem, file=path, record=f"line {number}", remedy=REMEDY)
        yield number, fields


def _span(path: Path, line: int, text: str, ends: tuple[str, str], mention: str, kind: str) -> Span:
    """Check an entity's offsets and return its span; genes of either kind (`GENE-Y`, `GENE-N`) are one."""
    if not all(end.isdecimal() for end in ends) or text[int(ends[0]) : int(ends[1])] != mention or not mention:
        problem = "the offsets do not point at the mention"
        raise DataError(problem, file=path, record=f"line {line}", remedy=REMEDY)
    return Span(int(ends[0]), int(ends[1]), kind.partition("-")[0])


def _candidates(
    name: str, text: str, line: int, entities: Entities, relations: dict[tuple[str, str, str], str]
) -> Iterator[Labelled]:
    for start, stop in sentences(text, list(entities.values())):
        inside = {n: s for n, s in entities.items() if start <= s.start and s.stop <= stop}
        chemicals = [n for n, span in inside.items() if span.type == "CHEMICAL"]
        for chemical in chemicals:
            for gene in (n for n in inside if n not in chemicals):
                ends = (shift_span(inside[chemical], start), shift_span(inside[gene], start))
                label = relations.get((name, chemical, gene), relations.get((name, gene, chemical), NONE))
                marked = mark_entities(text[start:stop], ends, both="CHEM-GENE").strip()
                yield Labelled(f"{name}.{chemical}.{gene}", (marked,), (label,), line=line, document=name)
