"""The sources that `corpus build` reads: a new one is a file with a reader, and an entry at the end of the list below.

Nothing else names a source: what the pipeline does otherwise for one than for another stands here. Readers are named as text and
imported by the build, so that `--help` imports no datatrove.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from biomlm.core.errors import ConfigError
from biomlm.core.verbs import load

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
NOTE_FIELDS = {  # of a note → MIMIC's names of its column
    "id": ("row_id", "note_id"),
    "patient": ("subject_id",),
    "text": ("text",),
    "category": ("category", "note_type"),
    "description": ("description",),
    "date": ("chartdate", "charttime"),
    "error": ("iserror",),
}


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of `corpus build` that has an effect on one source only.

    Args:
        kind: Its type.
        default: A value, or (if it can be called) a factory.
        help: What it does.
        argument: The reader's name for it; empty for one that the pipeline reads from the configuration.
        former: Of an option that came later: the value of the behaviour before, at which it leaves a folder's hash as it was.
        check: Raises a `ConfigError` for a value that means nothing.
    """

    kind: Any
    default: Any
    help: str
    argument: str = ""
    former: Any = None
    check: Callable[[Any], None] = lambda _: None


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source.

    Args:
        name: Its option on the command line, and the `source` in its documents' metadata.
        help: What its files are.
        reader_at: Place (`module:name`) of its datatrove reader.
        suffixes: Of the files that are read, compression aside.
        named: Suffixes of files that are read when named, and passed over in a folder, where such a file may be anything.
        sliced: Suffixes of tables of which a big one is read in slices, by several tasks.
        rank: Of documents with the same text the one whose source has the lowest is kept.
        citations: Whether it holds citations of articles: PMIDs may be taken back, and a citation gives way to the article in full.
        full_text: Whether it holds articles in full, which have licences and go by their PMCID.
        patients: Whether it is about patients: the reader takes the salt that hides them, and paragraphs that repeat are looked for.
        public: Whether its text may be shown in a run folder without being asked for.
        options: Options that it alone has.
    """

    name: str
    help: str
    reader_at: str
    suffixes: tuple[str, ...]
    named: tuple[str, ...] = ()
    sliced: tuple[str, ...] = ()
    rank: int
    citations: bool = False
    full_text: bool = False
    patients: bool = False
    public: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def articles(self) -> bool:
        """Whether its documents are articles, in full or as citations: those of the citation graph."""
        return self.citations or self.full_text

    @property
    def reader(self) -> type[Any]:
        """The class of its reader."""
        return load(self.reader_at)  # type: ignore[no-any-return]

    def arguments(self, config: Any) -> dict[str, Any]:
        """Return the reader's arguments that the configuration of a build decides."""
        return {option.argument: getattr(config, name) for name, option in self.options.items() if option.argument}


def _known_fields(columns: dict[str, str]) -> None:
    if unknown := [name for name in columns if name not in NOTE_FIELDS]:
        problem = f"note_columns has `{unknown[0]}`, which is no field of a note"
        raise ConfigError(problem, remedy=f"Say the column of any of {', '.join(NOTE_FIELDS)}.")


def _two_at_least(patients: int) -> None:
    if patients < 2:
        raise ConfigError("template_patients must be at least 2", remedy="Give a number such as 50.")


SOURCES: tuple[Source, ...] = (
    Source(
        name="pubmed",
        help="PubMed XML and MEDLINE text exports (.txt, .nbib, .medline), compressed or not: files, folders or globs.",
        reader_at="biomlm.corpus.readers.pubmed:PubMedReader",
        suffixes=(".xml", ".nbib", ".medline"),
        named=(".txt",),
        rank=1,
        citations=True,
        public=True,
    ),
    Source(
        name="pmc",
        help="JATS articles (.xml, .nxml) and packages of them (.tar, .tar.gz, .tar.xz).",
        reader_at="biomlm.corpus.readers.jats:JatsReader",
        suffixes=(".xml", ".nxml", ".tar"),
        rank=0,
        full_text=True,
        public=True,
        options={
            "tables": Option(
                kind=bool, default=False, help="Include the cells of tables in PMC articles.", argument="tables"
            ),
            "xpath": Option(
                kind=str,
                default="",
                help="Of PMC articles take only what this XPath selects, such as './/abstract | .//fig'.",
                argument="xpath",
            ),
            "translations": Option(
                kind=bool,
                default=False,
                help="Keep the translations that stand in PMC articles, as documents of their own.",
                argument="translations",
                former=False,
            ),
        },
    ),
    Source(
        name="notes",
        help="Clinical notes as CSV, JSONL, a JSON array or Parquet, in MIMIC-III's or MIMIC-IV-Note's shape or with --note_columns.",
        reader_at="biomlm.corpus.readers.notes:NotesReader",
        suffixes=(*TABLES, ".parquet"),
        named=(".json",),
        sliced=TABLES,
        rank=2,
        patients=True,
        options={
            "placeholders": Option(
                kind=Literal["keep", "type", "surrogate"],
                default="keep",
                help="What becomes of `[** … **]` in notes: kept, replaced by its type, or by surrogates.",
                argument="placeholders",
            ),
            "repeats": Option(
                kind=Literal["count", "remove"],
                default="count",
                help="Paragraphs that stood in an earlier note of the same patient: counted in the metadata, or removed.",
            ),
            "templates": Option(
                kind=Literal["count", "remove"],
                default="count",
                help="Paragraphs that stand in the notes of many patients: counted in the metadata, or removed but for the first place.",
            ),
            "template_patients": Option(
                kind=int, default=50, help="How many patients make a paragraph a template.", check=_two_at_least
            ),
            "note_columns": Option(
                kind=dict[str, str],
                default=dict,
                help=f"Columns of the notes' table where they are not MIMIC's: any of {', '.join(NOTE_FIELDS)}.",
                argument="columns",
                check=_known_fields,
            ),
        },
    ),
    Source(
        name="text",
        help="Plain text (.txt, a document a file) and JSONL, JSON arrays, Parquet or CSV (a document a row).",
        reader_at="biomlm.corpus.readers.text:TextReader",
        suffixes=(".txt", *TABLES, ".parquet"),
        named=(".json",),
        sliced=TABLES,
        rank=3,
        options={
            "text_unit": Option(
                kind=Literal["auto", "file", "paragraph", "line"],
                default="auto",
                help="A document of a text file: the `file`, a `line`, or a `paragraph` between blank lines; "
                "`auto` looks at files over 1 MB.",
                argument="unit",
                former="auto",
            ),
        },
    ),
    # a new source: behind the others, whose numbers stand in the parts of an interrupted build
)
BY_NAME = {source.name: source for source in SOURCES}
NUMBERS = {source.name: number for number, source in enumerate(SOURCES)}  # in the tables of a build


def names(wanted: Callable[[Source], bool]) -> list[str]:
    """Return the names of the sources that are so."""
    return [source.name for source in SOURCES if wanted(source)]


def numbers(wanted: Callable[[Source], bool]) -> list[int]:
    """Return the numbers of the sources that are so."""
    return [NUMBERS[name] for name in names(wanted)]
