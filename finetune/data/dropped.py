"""What readers leave out, counted by reason: it is reported with every run."""

from dataclasses import dataclass, fields


@dataclass
class Dropped:
    """Annotations that a task cannot hold.

    Args:
        overlapping: Entities inside or across a longer one.
        pieces: Entities in several pieces.
        types: Entities of a type that the map of types leaves out.
        apart: Relations whose two ends are not in one sentence.
        absent: Listed documents that the corpus lacks.
    """

    overlapping: int = 0
    pieces: int = 0
    types: int = 0
    apart: int = 0
    absent: int = 0

    def notes(self) -> dict[str, int]:
        """Reason → number, of those that occurred."""
        reasons = {
            "overlapping": "overlapping entities left out",
            "pieces": "entities in pieces left out",
            "types": "entities of other types left out",
            "apart": "relations across sentences left out",
            "absent": "listed documents not in the corpus",
        }
        return {reasons[f.name]: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}
