"""What readers leave out, counted by reason: it is reported with every run."""

from dataclasses import dataclass, fields


@dataclass
class Dropped:
    """Annotations that a task cannot hold.

    Args:
        overlapping: Entities inside or across a longer one.
        discontinuous: Entities in several pieces.
        types: Entities of a type that the map of types leaves out.
        across_sentences: Relations whose two ends are not in one sentence.
        missing_documents: Listed documents that the corpus lacks.
    """

    overlapping: int = 0
    discontinuous: int = 0
    types: int = 0
    across_sentences: int = 0
    missing_documents: int = 0

    def notes(self) -> dict[str, int]:
        """Return reason → number, of those that occurred."""
        reasons = {
            "overlapping": "overlapping entities left out",
            "discontinuous": "entities in pieces left out",
            "types": "entities of other types left out",
            "across_sentences": "relations across sentences left out",
            "missing_documents": "listed documents not in the corpus",
        }
        return {reasons[f.name]: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}
