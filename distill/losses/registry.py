"""What is known of a part of the loss before torch is loaded; `distill.losses.config.LossConfig` is the registry."""

from dataclasses import dataclass
from typing import Any, Literal

from biomlm.distill.losses.kinds import Weight
from biomlm.pretrain.objectives.registry import Entry, term

HERE = "biomlm.distill.losses."


@dataclass(frozen=True)
class PartEntry(Entry):
    """One part of the loss.

    Args:
        over: What it is a mean over: `masked` positions, where it compares predictions (`predictions.PredictionPart`), or all `tokens`,
            where it compares states (`states.StatePart`).
        involves_teacher: Whether it compares student and teacher.
        by_word: Whether a teacher with another vocabulary can give what it needs.
        cached: Whether a cache holds what it needs.
        looks_inside: Whether it reads what a layer computes on its way.
        options: Fields beside the weights that say how it is learnt.
    """

    over: Literal["masked", "tokens"] = "tokens"
    involves_teacher: bool = True
    by_word: bool = False
    cached: bool = False
    looks_inside: bool = False
    options: tuple[str, ...] = ()


def part(place: str, help_: str, *, weight: Weight | None = None, **facts: Any) -> Any:
    """Declare a part by the class that computes it, what it is, and what else is true of it (see `PartEntry`).

    One that came after the first release gives no weight: it has 0, at which no hash knows of it.
    """
    entry = PartEntry(HERE + place, help_, **facts)
    return term(0.0, entry, former=0.0) if weight is None else term(weight, entry)
