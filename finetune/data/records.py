"""What the readers give: texts with labelled words, whatever file they came from."""

from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property

from biomlm.finetune.data.iob_tags import Span, entities


@dataclass(frozen=True)
class Tagged:
    """A sentence or a document whose words carry tags.

    Args:
        id: Name within the data set: `<fold>:<number>`, or the source's own.
        text: The text that offsets point into.
        words: [words] (first character, the one behind the last), ascending.
        tags: [words] IOB2 tags.
        line: Where it begins in its file, from 1.
        title: Characters of its title, which opens its text and is parted by one character, where the source says so (PubTator).
    """

    id: str
    text: str
    words: tuple[tuple[int, int], ...]
    tags: tuple[str, ...]
    _: KW_ONLY
    line: int
    title: int | None = None

    def __post_init__(self) -> None:
        assert len(self.words) == len(self.tags)

    @cached_property
    def spans(self) -> list[Span]:
        """The gold entities, in words."""
        return entities(self.tags)

    def with_type(self, kind: str) -> "Tagged":
        """Return the same record with all entities of one type."""
        return replace(self, tags=tuple(tag if tag == "O" else f"{tag[0]}-{kind}" for tag in self.tags))

    def characters(self, spans: list[Span]) -> list[Span]:
        """Convert entities in words to characters of the text."""
        return [Span(self.words[start][0], self.words[stop - 1][1], kind) for start, stop, kind in spans]


@dataclass(frozen=True)
class Labelled:
    """A text, a pair of texts, or a question and its choices, with its labels.

    Args:
        id: Name within the data set.
        texts: The text; the two of a pair; for a multiple-choice question itself and then each choice.
        labels: The label, or several; for similarity none.
        value: The similarity; 0 elsewhere.
        line: Where it stands in its file, from 1.
        document: The document that it is a sentence of, if the data set says so.
    """

    id: str
    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    value: float = 0.0
    line: int = 0
    document: str = ""

    @property
    def text(self) -> str:
        """All of it, by which the same record is found in two folds."""
        return "\n".join(self.texts)
