"""The parts of a distillation's loss: the weight of each, and how it is learnt; `distill.objective` sums them."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from biomlm.core.errors import ConfigError
from biomlm.distill.losses.kinds import Distance, Kind, Weight
from biomlm.distill.losses.layer_maps import check_map
from biomlm.distill.losses.registry import PartEntry, part
from biomlm.pretrain.objectives.registry import described, entries

NUMBER = r"[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?"
RAMP = re.compile(rf"({NUMBER})\.\.({NUMBER})")


def weight_at(weight: Weight, share: float) -> float:
    """Evaluate a weight after a share of the run's steps, from 0 to 1."""
    if not isinstance(weight, str):
        return weight
    start, end = _ends(weight)
    return start + (end - start) * share


def largest(weight: Weight) -> float:
    """Give the largest value of a weight over the run."""
    return max(weight_at(weight, 0), weight_at(weight, 1))


def _ends(weight: str) -> tuple[float, float]:
    match = RAMP.fullmatch(weight)
    if match is None:
        raise ConfigError(
            f"`{weight}` is no weight", remedy="Give a number, or two such as 5..1 for a linear change over the run."
        )
    return float(match[1]), float(match[2])


@described
@dataclass(frozen=True)
class LossConfig:
    """Weights of the parts of the loss, each a number or `a..b` for a linear change from a to b over the run; 0 leaves a part out.

    The defaults are DistilBioBERT's (Rohanian et al. 2023, github.com/nlpie-research/Compact-Biomedical-Transformers), a stand-in for
    bio-lm's, which are not published: `hidden` 0 gives its distill model's parts, above 0 those of distill-align.

    Args:
        temperature: What both predictions are softened by.
        layers: Which hidden states: `last`; `uniform` for every student layer, evenly spread over the teacher's; or pairs of student and
            teacher layers such as 1:2,2:4, counted from 1.
        distance: Of hidden states, their means and embeddings: `cosine` (DistilBERT) or `mse` (TinyBERT).
        relation: `minilm` (query-key and value-value) or `minilmv2` (query-query, key-key, value-value).
        relation_heads: Heads to cut queries, keys and values into; 0 for as many as the student has.
        relation_layer: The teacher's layer, counted from 1; 0 for the last, as MiniLM takes it (MiniLMv2 takes the 21st of 24).
    """

    kl: Weight = part(
        "predictions.PredictionPart",
        "Of the soft cross-entropy with the teacher at masked positions.",
        weight=5.0,
        over="masked",
        cached=True,
        options=("temperature",),
    )
    temperature: float = 2.0
    mlm: Weight = part(
        "predictions.PredictionPart", "Of the masked-LM loss.", weight=2.0, over="masked", involves_teacher=False
    )
    hidden: Weight = part(
        "states.HiddenStates",
        "Of the alignment of hidden states at all tokens, through a learned projection where widths differ.",
        weight=1.0,
        by_word=True,
        cached=True,
        options=("layers", "distance"),
    )
    layers: str = "last"
    distance: Distance = "cosine"
    pooled: Weight = part(
        "states.SequenceMeans",
        "Of the alignment of each sequence's mean last hidden state, which is what a sentence encoder gives out (Reimers and Gurevych "
        "2020, arXiv 2004.09813), through the last layers' projection; a sequence counts by its tokens.",
        weight=0.0,
        cached=True,
        options=("distance",),
    )
    embeddings: Weight = part(
        "states.Embeddings",
        "Of the alignment of the embeddings' outputs, through a projection of their own.",
        weight=0.0,
        options=("distance",),
    )
    relations: Weight = part(
        "relations.Relations",
        "Of the attention relations of the student's last layer and one of the teacher's.",
        weight=0.0,
        looks_inside=True,
        options=("relation", "relation_heads", "relation_layer"),
    )
    relation: Kind = "minilmv2"
    relation_heads: int = 0
    relation_layer: int = 0
    # a new part (docs/extending.md)

    def __post_init__(self) -> None:
        for name in PARTS:
            if not all(0 <= weight_at(getattr(self, name), share) < math.inf for share in (0, 1)):
                raise ConfigError(
                    f"loss.{name} is {getattr(self, name)}, and weights are numbers from 0",
                    remedy="Give 0 to leave the part out.",
                )
        if not self.options_of(lambda entry: entry.involves_teacher):
            raise ConfigError(
                "a part that involves the teacher needs a positive weight", remedy="Raise loss.kl or loss.hidden."
            )
        for option in dict.fromkeys(option for entry in PARTS.values() for option in entry.options):
            parts = [name for name, entry in PARTS.items() if option in entry.options]
            if getattr(self, option) != getattr(LossConfig, option) and self.used.keys().isdisjoint(parts):
                raise ConfigError(
                    f"loss.{option} says how loss.{' or '.join(parts)} is learnt, which is left out",
                    remedy=f"Leave out loss.{option}, or give loss.{parts[0]} a weight.",
                )
        if not 0 < self.temperature < math.inf:
            raise ConfigError("loss.temperature must be positive", remedy="Take 2.")
        if min(self.relation_heads, self.relation_layer) < 0:
            raise ConfigError(
                "loss.relation_heads and loss.relation_layer are counts", remedy="Leave them out for the defaults."
            )
        check_map(self.layers, "loss.layers", ("uniform", "last"))

    @property
    def used(self) -> dict[str, PartEntry]:
        """The parts that have a weight above 0 at any time."""
        return {name: entry for name, entry in PARTS.items() if largest(getattr(self, name)) > 0}

    def options_of(self, wanted: Callable[[PartEntry], bool]) -> list[str]:
        """List the options of those used parts of which something is true."""
        return [f"loss.{name}" for name, entry in self.used.items() if wanted(entry)]

    @property
    def predicts(self) -> bool:
        """Whether the student's predictions are looked at."""
        return any(entry.over == "masked" for entry in self.used.values())

    @property
    def compares_predictions(self) -> bool:
        """Whether they are compared with the teacher's."""
        return any(entry.over == "masked" and entry.involves_teacher for entry in self.used.values())


PARTS = entries(LossConfig, PartEntry)
