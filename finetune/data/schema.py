"""What a user states about a data set's tables: what each column is."""

from dataclasses import dataclass

from biomlm.core.errors import ConfigError


@dataclass(frozen=True)
class Columns:
    """Which column of a table (or key of a JSON line) is what.

    Args:
        text: The text, or the first of a pair, or the question.
        pair: The second text of a pair; left out for single texts.
        label: The label, or the similarity.
        id: The record's id; left out, records are numbered.
        document: For multilabel the document whose sentences are scored together; left out, every record by itself.
        choices: For multiple choice the columns of the choices, in order; or one key of a JSON object or list.
        separator: What parts several labels in one field of a TSV or CSV file.
    """

    text: str = "text"
    pair: str = ""
    label: str = "label"
    id: str = ""
    document: str = ""
    choices: tuple[str, ...] = ()
    separator: str = ","

    def __post_init__(self) -> None:
        if not self.text or not self.label or not self.separator:
            raise ConfigError("columns.text, label and separator need a value", remedy="Name the columns of the table.")
