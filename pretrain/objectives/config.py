"""The objectives of pretraining: the weight of each, and what is masked for the first of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from biomlm.core.errors import ConfigError
from biomlm.core.fields import only
from biomlm.pretrain.objectives.registry import Entry, described, entries, term
from biomlm.tokenizer.upos import UPOS

# EMBO's bio-lm (github.com/source-data/soda-roberta) masks these as one set.
POS_SETS = {"SMALL": ("DET", "CCONJ", "SCONJ", "ADP", "PRON")}

# Where the second segment of a pair comes from: it follows the first, or stands in front of it, or opens another document, which
# is drawn at random or among those that cite the first one's or are cited by it.
Origin = Literal["next", "before", "random", "linked"]
HERE = "biomlm.pretrain.objectives."


@dataclass(frozen=True)
class Pairing:
    """The pairs of segments that an objective tells apart.

    Args:
        objective: Its name, for errors and metrics.
        origins: Name of each label → where its second segment comes from; a label's number is its place here.
    """

    objective: str
    origins: Mapping[str, Origin]

    @property
    def from_elsewhere(self) -> bool:
        """Whether it takes two documents, which are to be of one source."""
        return not {"random", "linked"}.isdisjoint(self.origins.values())

    @property
    def linked(self) -> bool:
        """Whether it reads which documents cite each other."""
        return "linked" in self.origins.values()


@dataclass(frozen=True)
class ObjectiveEntry(Entry):
    """One objective.

    Args:
        origins: Of the pairs that it tells apart (see `Pairing`); empty where it reads sequences of any form.
        in_every_hash: Whether it stands in a hash at the weight 0 too, as those of the first release do.
    """

    origins: Mapping[str, Origin]
    in_every_hash: bool


def objective(place: str, help_: str, *, weight: float = 0.0, in_every_hash: bool = False, **origins: Origin) -> Any:
    """Declare an objective by the class that computes it and what it is, in a sentence (see `ObjectiveEntry`)."""
    entry = ObjectiveEntry(HERE + place, help_, origins, in_every_hash)
    return term(weight, entry) if in_every_hash else term(weight, entry, former=0.0)


@dataclass(frozen=True)
class MlmConfig:
    """Masked language modelling with dynamic masks (Devlin et al. 2019, arXiv 1810.04805; Liu et al. 2019, arXiv 1907.11692).

    Args:
        mask_rate: Share of tokens to predict.
        final_mask_rate: The same at the end of the run; no change if left out.
        mask_schedule: How the rate gets there: `linear` (Ankner et al. 2023, arXiv 2305.15096: 0.3 to 0.15), along half a `cosine` (Yang
            et al. 2023, arXiv 2208.10806: 0.3 to 0.02), or in one `step` (BioClinical ModernBERT, arXiv 2506.10896: 0.3, then 0.15).
        step_at: Share of the run after which `step` changes the rate.
        mask_share: Of these, the share shown as `<mask>`.
        random_share: Of these, the share shown as a random token; the rest is shown as it is.
        unit: What is chosen: single tokens, whole words, or n-grams of 1 to 3 words weighted 1/n (Megatron-LM, GatorTron).
        max_predictions: Most tokens to predict in a sequence (20 at length 128 in BERT and Bio_ClinicalBERT); 0 for no limit.
        static_masks: Mask the corpus this many times and come round again, as BERT's duplication factor does (Bio_ClinicalBERT: 5); 0
            masks anew in every epoch.
        pos: Choose among tokens of these Universal parts of speech only, `mask_rate` of them; SMALL is DET, CCONJ, SCONJ, ADP and
            PRON (EMBO's bio-lm, which masks them all: rate and mask_share 1, random_share 0). Empty for all tokens. Needs shards encoded
            with --pos.
    """

    mask_rate: float = 0.15
    final_mask_rate: float | None = None
    mask_schedule: Literal["linear", "cosine", "step"] = "linear"
    step_at: float = only(0.5, lambda mlm: mlm.mask_schedule == "step", "--mlm.mask_schedule step")
    mask_share: float = 0.8
    random_share: float = 0.1
    unit: Literal["token", "word", "ngram"] = "token"
    max_predictions: int = 0
    static_masks: int = 0
    pos: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, rate in (("mask_rate", self.mask_rate), ("final_mask_rate", self.final_mask_rate)):
            if rate is not None and not 0 < rate < 1 and not (rate == 1 and self.pos):
                raise ConfigError(f"mlm.{name} must lie between 0 and 1", remedy="0.15 is BERT's and RoBERTa's.")
        if self.mask_schedule != "linear" and self.final_mask_rate is None:
            raise ConfigError(
                f"mlm.mask_schedule {self.mask_schedule} leads nowhere without mlm.final_mask_rate",
                remedy="Give --mlm.final_mask_rate, such as 0.15.",
            )
        if not 0 < self.step_at < 1:
            raise ConfigError("mlm.step_at must lie between 0 and 1", remedy="0.5 changes the rate halfway.")
        if self.pos and self.unit != "token":
            raise ConfigError("mlm.pos chooses single tokens", remedy="Leave --mlm.unit out.")
        for name in self.pos:
            if name not in (*UPOS, *POS_SETS):
                raise ConfigError(f"there is no part of speech {name}", remedy=f"Take {', '.join((*POS_SETS, *UPOS))}.")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise ConfigError(
                "mlm.mask_share and mlm.random_share must add up to 1 at most", remedy="Take 0.8 and 0.1."
            )


@described
@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the losses that are summed; at most one of those that tell pairs of segments apart."""

    mlm: float = objective("masked_lm.MaskedLMTerm", "Masked language modelling.", weight=1.0, in_every_hash=True)
    nsp: float = objective(
        "pairs.PairTerm",
        "Next-sentence prediction: does B continue A, or is it from another document (Devlin et al. 2019, arXiv 1810.04805)?",
        in_every_hash=True,
        next="next",
        random="random",
    )
    sop: float = objective(
        "pairs.PairTerm",
        "Sentence-order prediction: are A and B in order or swapped (Lan et al. 2020, arXiv 1909.11942)?",
        in_every_hash=True,
        in_order="next",
        swapped="before",
    )
    drp: float = objective(
        "pairs.PairTerm",
        "Document-relation prediction: is B contiguous, from a random document, or from one that cites A's or is cited by it (Yasunaga "
        "et al. 2022, arXiv 2203.15827)?",
        in_every_hash=True,
        contiguous="next",
        random="random",
        linked="linked",
    )
    sso: float = objective(
        "pairs.PairTerm",
        "Sentence structure: does B follow A, stand in front of it, or come from another document (Wang et al. 2019, arXiv 1908.04577)?",
        next="next",
        previous="before",
        random="random",
    )
    # a new objective (docs/extending.md)

    def __post_init__(self) -> None:
        if self.mlm <= 0 or min(self._all.values()) < 0:
            raise ConfigError("objective.mlm must be positive, and no weight negative", remedy="1.0 each is BERT's.")
        if len(paired := [f"objective.{name}" for name in PAIRINGS if self._all[name] > 0]) > 1:
            raise ConfigError(f"{' and '.join(paired)} need pairs of different kinds", remedy="Choose one.")

    @property
    def _all(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in OBJECTIVES}

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the objectives that are minimised, by name."""
        return {name: weight for name, weight in self._all.items() if weight > 0}

    @property
    def pairing(self) -> Pairing | None:
        """The pairs that the sequences are, if one of these objectives reads pairs."""
        return next((PAIRINGS[name] for name in self.weights if name in PAIRINGS), None)


OBJECTIVES = entries(ObjectiveConfig, ObjectiveEntry)
PAIRINGS = {name: Pairing(name, entry.origins) for name, entry in OBJECTIVES.items() if entry.origins}
