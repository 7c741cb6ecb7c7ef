"""Which documents are wanted: by length, language, licence, kind and date. A filter marks, the writer puts aside and counts."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from biomlm.core.errors import ConfigError
from biomlm.corpus.filters.language import language
from biomlm.corpus.text.dates import between, iso
from biomlm.corpus.text.document import DROPPED, RETRACTED


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
            given = getattr(self, name)
            if given and iso(given) != given:
                raise ConfigError(f"select.{name} is no date", remedy="Write 2011, 2011-03 or 2011-03-04.")


class MarkUnwanted(PipelineStep):  # type: ignore[misc]
    """Marks documents that are not wanted.

    Args:
        min_words: Fewest words of a document.
        selection: What is wanted.
    """

    type, name = "🔻 - FILTER", "selection"

    def __init__(self, min_words: int, selection: Selection):
        super().__init__()
        self.min_words, self.selection = min_words, selection

    def run(self, data: DocumentsPipeline, _rank: int = 0, _world_size: int = 1) -> DocumentsPipeline:
        """Pass every document on, marked or not."""
        for document in data:
            if DROPPED not in document.metadata and (reason := self.reason(document)):
                document.metadata[DROPPED] = reason
            yield document

    def reason(self, document: Document) -> str:
        """Why a document is not wanted, empty if it is."""
        wanted, meta = self.selection, document.metadata
        if not document.text:
            return "no text"
        words = len(document.text.split())
        if words < self.min_words:
            return f"fewer than {self.min_words} words"
        if wanted.max_words and words > wanted.max_words:
            return f"more than {wanted.max_words} words"
        if wanted.licenses and meta["source"] == "pmc" and not has_licence(meta.get("license", ""), wanted.licenses):
            return "another licence"
        if wanted.article_types and (kinds := _kinds(meta)) and not kinds & set(wanted.article_types):
            return "another article type"
        date = meta.get("date") or str(meta.get("year", ""))
        if date and not between(date, wanted.date_from, wanted.date_to):
            return "another date"
        if meta.get("retracted") and not wanted.retracted:
            return RETRACTED
        if wanted.languages and language(document.text) not in ("", *wanted.languages):
            return "another language"
        return ""


def has_licence(licence: str, wanted: Iterable[str]) -> bool:
    """Whether a licence is one of those wanted; one without a version stands for all its versions."""
    bare = licence.rstrip("0123456789.").rstrip("-")
    return any(name.lower() in (licence, bare) for name in wanted)


def _kinds(meta: dict[str, Any]) -> set[str]:
    return {*meta.get("publication_types", ()), *([meta["article_type"]] if "article_type" in meta else ())}
