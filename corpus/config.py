"""The configurations of `biomlm corpus`, in a module without datatrove: `--help` reads it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Any, Literal

from biomlm.core.errors import ConfigError
from biomlm.core.fields import Applies, added, listed, only, require_positive, runtime
from biomlm.corpus.filters.language import LANGUAGES
from biomlm.corpus.sources import BY_NAME, SOURCES, Option, names
from biomlm.corpus.text.dates import between, iso


@dataclass(frozen=True)
class Selection:
    """What is wanted; an empty list or a 0 wants everything.

    Args:
        max_words: Most words of a document.
        categories: Categories of notes, such as `Discharge summary` (capitals and blanks at the ends aside); notes of no category go, too.
        languages: Languages as ISO codes such as `en`, found from the text; texts too short to tell are kept.
        licenses: Licences of PMC articles, such as `cc-by` (any version) or `cc-by-4.0`.
        article_types: JATS article types and PubMed publication types, such as `research-article`.
        journals: Titles of journals in full, as PubMed and PMC write them (capitals aside); articles without one go, too.
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
    categories: list[str] = added(list)
    journals: list[str] = added(list)
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


def _given(sources: Sequence[str]) -> Applies:
    """Return when one of these sources is read, for the options that have an effect on them only."""
    needs = listed([f"--{name}" for name in sources])
    return Applies(lambda config: any(getattr(config, name) for name in sources), needs)


def _of_source(option: Option, source: str) -> Any:
    factory = {"default_factory": option.default} if callable(option.default) else {"default": option.default}
    later = {} if option.former is None else {"former": option.former}
    return field(**factory, metadata={"applies": _given([source]), **later})


if TYPE_CHECKING:
    Sources = Any
else:
    _OPTIONS = [(name, option, source.name) for source in SOURCES for name, option in source.options.items()]
    Sources = make_dataclass(
        "Sources",
        [
            *((s.name, list[str], field(default_factory=list, metadata={"first": True})) for s in SOURCES),
            *((name, option.kind, _of_source(option, source)) for name, option, source in _OPTIONS),
        ],
        frozen=True,
        kw_only=True,
    )
    _HELP = {s.name: s.help for s in SOURCES} | {name: option.help for name, option, _ in _OPTIONS}
    Sources.__doc__ = "What is read.\n\nArgs:\n" + "\n".join(f"    {name}: {text}" for name, text in _HELP.items())


@dataclass(frozen=True, kw_only=True)
class BuildConfig(Sources):  # type: ignore[misc]
    """Raw PubMed, PMC, clinical notes and text → documents.

    Args:
        out: Folder to write documents to.
        valid_fraction: Share of patients and articles that is held out.
        min_words: Fewest words of a document.
        select: Which documents are wanted.
        salt_file: File with the secret salt of the patients' hashes and of the split (mode 600); or set BIOMLM_SALT. Notes need one.
        file_seconds: Most seconds for reading one file; what is left of it then is set aside, and counted. 0 for no limit.
        keep_dropped: Write what is dropped to `dropped/`, with the reason in its metadata.
        workers: Tasks at a time; 0 takes one a core.
        where: Where tasks run, if not here.
        override: Go on in a folder that was made with another configuration or input.
    """

    out: str = field(metadata={"runtime": True})
    valid_fraction: float = 0.02
    min_words: int = 5
    select: Selection = field(
        default_factory=Selection,
        metadata={
            "applies": {
                "categories": _given(names(lambda source: source.patients)),
                "licenses": _given(names(lambda source: source.full_text)),
                "article_types": _given(names(lambda source: source.articles)),
                "journals": _given(names(lambda source: source.articles)),
                "retracted": _given(names(lambda source: source.articles)),
            }
        },
    )
    salt_file: str = runtime("")
    file_seconds: int = added(0)
    keep_dropped: bool = False
    workers: int = runtime(1)
    where: Where = field(default_factory=Where, metadata={"runtime": True})
    override: bool = runtime(False)

    def __post_init__(self) -> None:
        if not 0 <= self.valid_fraction < 1:
            raise ConfigError("valid_fraction must be at least 0 and below 1", remedy="Give a share such as 0.02.")
        if min(self.workers, self.min_words, self.file_seconds) < 0:
            problem = "workers, min_words and file_seconds cannot be negative"
            raise ConfigError(problem, remedy="Give a number from 0 on.")
        for source in SOURCES:
            for name, option in source.options.items():
                option.check(getattr(self, name))


@dataclass(frozen=True)
class StatsConfig:
    """What a folder of documents holds.

    Args:
        docs: Folder that `biomlm corpus build` wrote.
    """

    docs: str


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Documents to read.

    Args:
        docs: Folder that `biomlm corpus build` wrote.
        ids: Ids of documents, such as `pmid:29728066`.
        sample: Show so many documents, chosen by the seed.
        seed: Of the sample.
        sources: Only documents of these sources.
        private: Show the text of sources that are not public, such as notes; only their ids are shown without it.
    """

    docs: str
    ids: list[str] = field(default_factory=list)
    sample: int = 0
    seed: int = only(1, lambda config: config.sample > 0, "--sample")
    sources: list[str] = only(list, lambda config: config.sample > 0, "--sample")
    private: bool = False

    def __post_init__(self) -> None:
        if self.sample < 0:
            raise ConfigError("sample cannot be negative", remedy="Give a number of documents.")
        if unknown := [name for name in self.sources if name not in BY_NAME]:
            problem = f"there is no source {unknown[0]}"
            raise ConfigError(problem, remedy=f"Give any of {', '.join(BY_NAME)}.")
        if bool(self.ids) == bool(self.sample):
            problem = "ids and --sample are both given" if self.ids else "neither ids nor --sample are given"
            raise ConfigError(problem, remedy="Give ids of documents, or --sample N.")
