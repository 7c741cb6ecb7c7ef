"""Reader of tables: TSV, CSV and JSONL with a map of columns, for any task on whole texts."""

from pathlib import Path

from biomlm.core.errors import DataError
from biomlm.finetune.data.labelling import Labelling, Row
from biomlm.finetune.data.records import Labelled
from biomlm.finetune.data.schema import Columns
from biomlm.inputs import tables

ENDINGS = (".jsonl", ".tsv", ".csv")


def read_table(path: Path, fold: str, columns: Columns, labelling: Labelling) -> list[Labelled]:
    """Read one file.

    Args:
        path: `.tsv`, `.csv` (with a head line) or `.jsonl`, also in gzip.
        fold: Its name in the ids.
        columns: The map.
        labelling: How a row states the labels.

    Raises:
        UserError: A line that is malformed, or lacks a column or a label, or the choices have no columns.
    """
    assert labelling.record is not None, f"tables hold no {labelling.name}"
    wanted = [columns.text, *filter(None, (columns.pair, columns.id, columns.document)), *columns.choices]
    wanted[1:1] = [] if labelling.optional else [columns.label]
    records: list[Labelled] = []
    for line, fields in tables.whole_rows(path):
        missing = [name for name in wanted if fields.get(name) in (None, "")]
        if missing:
            problem = f"the column {missing[0]} is {'empty' if missing[0] in fields else 'missing'}"
            remedy = "Every record needs it; --columns.text, --columns.label and so on name the columns."
            raise DataError(problem, file=path, record=f"line {line}", remedy=remedy)
        name = str(fields[columns.id]) if columns.id else f"{fold}:{len(records) + 1}"
        records.append(labelling.record(Row(path=path, line=line, id=name, fields=fields, columns=columns)))
    return records
