"""The configurations of `biomlm corpus`, in a module without datatrove: `--help` reads it."""

from dataclasses import dataclass, field
from typing import Literal

from biomlm.core.errors import ConfigError
from biomlm.core.fields import Applies, only, require_positive, runtime
from biomlm.corpus.filters.language import LANGUAGES
from biomlm.corpus.text.dates import between, iso

NOTE_FIELDS = {  # of a note → MIMIC's names of its column
    "id": ("row_id", "note_id"),
    "patient": ("subject_id",),
    "text": ("text",),
    "category": ("category", "note_type"),
    "description": ("description",),
    "date": ("chartdate", "charttime"),
    "error": ("iserror",),
}


@dataclass(frozen=True)
class Selection:
    """What is wanted; an empty list or a 0 wants everything.

    Args:
        max_words: Most words of a document.
        languages: Languages as ISO codes such as `en`, found from the text; texts too short to tell are kept.
        licenses: Licences of PMC articles, such as `cc-by` (any version) or `cc-by-4.0`.
        article_types: JATS article types and PubMed publication types, such as `research-article`.
        date_from: First date of publication as YYYY, YYYY-MM or YYYY-MM-DD; documents without a date are kept.
        date_to: Last date of publication, likewise. What is known only to the year or month is compared as far as it is known.
        retracted: Keep retracted articles (they are marked in their metadata).
        near_duplicates: Drop near-duplicates by MinHash, within and across sources.
        decontaminate: Evaluation files (text, IOB TSV, PubTator, JSONL, lists of PMIDs); documents that share 13 words or a PMID go.
    """

    max_words: int = 0
    languages: list[str] = field(default_factory=list)
    licenses: list[str] = field(default_factory=list)
    article_types: list[str] = field(default_factory=list)
    date_from: str = ""
    date_to: str = ""
    retracted: bool = True
    near_duplicates: bool = False
    decontaminate: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("date_from", "date_to"):
            bound = getattr(self, name)
            if bound and iso(bound) != bound:
                raise ConfigError(f"select.{name} is no date", remedy="Write 2011, 2011-03 or 2011-03-04.")
        if self.date_from and self.date_to and not between(self.date_from, "", self.date_to):
            raise ConfigError("select.date_to lies before select.date_from", remedy="Exchange the two.")
        if unknown := [code for code in self.languages if code not in LANGUAGES]:
            raise ConfigError(
                f"select.languages has `{unknown[0]}`, which is never found",
                remedy=f"Give any of {', '.join(LANGUAGES)}.",
            )


@dataclass(frozen=True)
class Where:
    """Where tasks run.

    Args:
        executor: `local`, `slurm` or `ray`.
        partition: SLURM's partition.
        time: SLURM's time limit of a task, `HH:MM:SS`.
        memory: GB a task, on SLURM and Ray.
    """

    executor: Literal["local", "slurm", "ray"] = "local"
    partition: str = only("", lambda where: where.executor == "slurm", "--where.executor slurm")
    time: str = only("24:00:00", lambda where: where.executor == "slurm", "--where.executor slurm")
    memory: int = only(2, lambda where: where.executor != "local", "--where.executor slurm or ray")

    def __post_init__(self) -> None:
        require_positive(self, "memory", prefix="where.")


def _notes(config: "BuildConfig") -> bool:
    return bool(config.notes)


@dataclass(frozen=True)
class BuildConfig:
    """Raw PubMed, PMC, clinical notes and text → documents.

    Args:
        out: Folder to write documents to.
        pubmed: PubMed XML and MEDLINE text exports (.txt, .nbib, .medline), compressed or not: files, folders or globs.
        pmc: JATS articles (.xml, .nxml) and packages of them (.tar, .tar.gz, .tar.xz).
        notes: Clinical notes as CSV, JSONL or Parquet, in MIMIC-III's or MIMIC-IV-Note's shape or with --note_columns.
        text: Plain text (.txt, a document a file) and JSONL, Parquet or CSV (a document a row).
        valid_fraction: Share of patients and articles that is held out.
        min_words: Fewest words of a document.
        select: Which documents are wanted.
        tables: Include the cells of tables in PMC articles.
        xpath: Of PMC articles take only what this XPath selects, such as './/abstract | .//fig'.
        placeholders: What becomes of `[** … **]` in notes: kept, replaced by its type, or by surrogates.
        repeats: Paragraphs that stood in an earlier note of the same patient: counted in the metadata, or removed.
        templates: Paragraphs that stand in the notes of many patients: counted in the metadata, or removed but for the first place.
        template_patients: How many patients make a paragraph a template.
        note_columns: Columns of the notes' table where they are not MIMIC's: any of id, patient, text, category, description, date, error.
        salt_file: File with the secret salt of the patients' hashes and of the split (mode 600); or set BIOMLM_SALT. Notes need one.
        keep_dropped: Write what is dropped to `dropped/`, with the reason in its metadata.
        workers: Tasks at a time; 0 takes one a core.
        where: Where tasks run, if not here.
        override: Go on in a folder that was made with another configuration or input.
    """

    out: str = field(metadata={"runtime": True})
    pubmed: list[str] = field(default_factory=list)
    pmc: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    valid_fraction: float = 0.02
    min_words: int = 5
    select: Selection = field(
        default_factory=Selection,
        metadata={
            "applies": {
                "licenses": Applies(lambda c: bool(c.pmc), "--pmc"),
                "article_types": Applies(lambda c: bool(c.pubmed or c.pmc), "--pubmed or --pmc"),
                "retracted": Applies(lambda c: bool(c.pubmed or c.pmc), "--pubmed or --pmc"),
            }
        },
    )
    tables: bool = only(False, lambda c: bool(c.pmc), "--pmc")
    xpath: str = only("", lambda c: bool(c.pmc), "--pmc")
    placeholders: Literal["keep", "type", "surrogate"] = only("keep", _notes, "--notes")
    repeats: Literal["count", "remove"] = only("count", _notes, "--notes")
    templates: Literal["count", "remove"] = only("count", _notes, "--notes")
    template_patients: int = only(50, _notes, "--notes")
    note_columns: dict[str, str] = only(dict, _notes, "--notes")
    salt_file: str = runtime("")
    keep_dropped: bool = False
    workers: int = runtime(1)
    where: Where = field(default_factory=Where, metadata={"runtime": True})
    override: bool = runtime(False)

    def __post_init__(self) -> None:
        if not 0 <= self.valid_fraction < 1:
            raise ConfigError("valid_fraction must be at least 0 and below 1", remedy="Give a share such as 0.02.")
        if self.workers < 0 or self.min_words < 0:
            raise ConfigError("workers and min_words cannot be negative", remedy="Give a number from 0 on.")
        if self.template_patients < 2:
            raise ConfigError("template_patients must be at least 2", remedy="Give a number such as 50.")
        if unknown := [name for name in self.note_columns if name not in NOTE_FIELDS]:
            raise ConfigError(
                f"note_columns has `{unknown[0]}`, which is no field of a note",
                remedy=f"Say the column of any of {', '.join(NOTE_FIELDS)}.",
            )


@dataclass(frozen=True)
class StatsConfig:
    """What a folder of documents holds.

    Args:
        docs: Folder that `biomlm corpus build` wrote.
    """

    docs: str
