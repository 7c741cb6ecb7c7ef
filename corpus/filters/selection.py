"""Which documents are wanted: by length, language, licence, kind and date. A filter marks, the writer puts aside and counts."""

from collections.abc import Iterable
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from biomlm.corpus.config import Selection
from biomlm.corpus.filters.language import language
from biomlm.corpus.sources import BY_NAME
from biomlm.corpus.text.dates import between
from biomlm.corpus.text.document import DROPPED, RETRACTED, words


class MarkUnwanted(PipelineStep):  # type: ignore[misc]
    """Mark documents that are not wanted.

    Args:
        min_words: Fewest words of a document.
        selection: What is wanted.
    """

    type, name = "🔻 - FILTER", "selection"

    def __init__(self, min_words: int, selection: Selection):
        super().__init__()
        self.min_words, self.selection = min_words, selection
        self.categories = frozenset(map(_folded, selection.categories))
        self.journals = frozenset(map(_folded, selection.journals))

    def run(self, data: DocumentsPipeline, _rank: int = 0, _world_size: int = 1) -> DocumentsPipeline:
        """Pass every document on, marked or not."""
        for document in data:
            if DROPPED not in document.metadata and (reason := self.reason(document)):
                document.metadata[DROPPED] = reason
            yield document

    def reason(self, document: Document) -> str:
        """Return why a document is not wanted; empty if it is."""
        wanted, meta = self.selection, document.metadata
        if not document.text:
            return "no text"
        length = words(document.text)
        if length < self.min_words:
            return f"fewer than {self.min_words} words"
        if wanted.max_words and length > wanted.max_words:
            return f"more than {wanted.max_words} words"
        if (
            wanted.licenses
            and BY_NAME[meta["source"]].full_text
            and not has_licence(meta.get("license", ""), wanted.licenses)
        ):
            return "another licence"
        journals = self.journals if BY_NAME[meta["source"]].articles else ()
        if journals and _folded(meta.get("journal", "")) not in journals:
            return "another journal"
        if wanted.article_types and (kinds := _kinds(meta)) and not kinds & set(wanted.article_types):
            return "another article type"
        categories = self.categories if BY_NAME[meta["source"]].patients else ()
        if categories and _folded(meta.get("category", "")) not in categories:
            return "another category"
        date = meta.get("date") or str(meta.get("year", ""))
        if date and not between(date, wanted.date_from, wanted.date_to):
            return "another date"
        if meta.get("retracted") and not wanted.retracted:
            return RETRACTED
        if wanted.languages and language(document.text) not in ("", *wanted.languages):
            return "another language"
        return ""


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def has_licence(licence: str, wanted: Iterable[str]) -> bool:
    """Return whether a licence is one of those wanted; one without a version stands for all its versions."""
    bare = licence.rstrip("0123456789.").rstrip("-")
    return any(name.lower() in (licence, bare) for name in wanted)


def _kinds(meta: dict[str, Any]) -> set[str]:
    return {*meta.get("publication_types", ()), *([meta["article_type"]] if "article_type" in meta else ())}
