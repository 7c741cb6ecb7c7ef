"""Decide how a model is adapted: phases, sizes of a step, rates, passes over the text, from what a trial has found.

A model that is to serve clinical text reads all sources first, at a constant rate, then the notes alone while the rate falls to 0, as
BioClinical ModernBERT does (arXiv 2506.10896); where there is one kind of text, one phase does both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from biomlm.core.errors import ConfigError
from biomlm.core.progress import clock

STEPS = 200  # of a phase at least, where the text gives so many: fewer are mostly warm-up
LARGEST_STEP = 131_072  # tokens, 256 sequences of 512
TRAINING = 0.8  # of the budget; the rest is left to checkpoints, evaluations and the other stages
EPOCH_DIGITS = 2


@dataclass(frozen=True)
class Rate:
    """A peak learning rate for going on with a trained masked-LM encoder.

    Args:
        rotary: Whether it is for models of rotary positions; else for those of learned ones.
        most: Parameters that it is for at most.
        rate: At a step of `tokens` tokens; at another it goes with the root of their number.
        tokens: Of a step of the run that it was taken from.
        source: Where it comes from.
    """

    rotary: bool
    most: float
    rate: float
    tokens: int
    source: str


# A root law through 5e-5 at 8,192 tokens gives 5.7e-4 at the million tokens at which Gururangan et al. 2020 (arXiv 2004.10964) took 5e-4.
RATES = (
    Rate(True, 250e6, 3e-4, 576 * 8192, "BioClinical ModernBERT base's (arXiv 2506.10896)"),
    Rate(True, math.inf, 5e-5, 616 * 8192, "BioClinical ModernBERT large's (arXiv 2506.10896)"),
    Rate(False, 60e6, 2e-4, 8192, "ours for small models: four times that of base"),
    Rate(False, 200e6, 5e-5, 8192, "EMBO/bio-lm's, of 64 examples a step, and Bio_ClinicalBERT's"),
    Rate(False, math.inf, 3.3e-5, 8192, "as for base, by RoBERTa's ratio of large to base (4e-4 to 6e-4)"),
)


@dataclass(frozen=True)
class Trial:
    """What `biomlm pretrain trial` found.

    Args:
        parameters: Of the model.
        rotary: Whether it has rotary positions, as ModernBERT, or learned ones.
        has_head: Whether it has a masked-LM head.
        max_length: Longest sequence in tokens.
        processes: That will train.
        micro_batch: Tokens of the micro-batch that trains fastest.
        tokens_per_second: Of all processes.
        device: Where it was measured, or what it was planned for.
    """

    parameters: int
    rotary: bool
    has_head: bool
    max_length: int
    processes: int
    micro_batch: int
    tokens_per_second: float
    device: str

    @classmethod
    def read(cls, result: Mapping[str, Any]) -> "Trial":
        """Take from `result.json` what is wanted here."""
        return cls(**{name: result[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Phase:
    """One stage of pretraining.

    Args:
        name: Of the stage.
        sources: Whose documents it reads; empty for all.
        tokens: That it trains on.
        passes: Over those documents.
        steps: Of the optimiser.
        micro_batch: Tokens.
        accumulation: Micro-batches of a step.
        lr: Peak learning rate.
        schedule: What follows the warm-up.
        mask_rate: Share of tokens to predict.
    """

    name: str
    sources: tuple[str, ...]
    tokens: float
    passes: float
    steps: int
    micro_batch: int
    accumulation: int
    lr: float
    schedule: str
    mask_rate: float


def rate_for(trial: Trial) -> Rate:
    """Find the rate for a model in the table."""
    return next(rate for rate in RATES if trial.rotary == rate.rotary and trial.parameters <= rate.most)


def phases(trial: Trial, tokens: Mapping[str, float], *, most_passes: float, seconds: float | None) -> list[Phase]:
    """Plan the training of a model.

    Args:
        trial: What is known of it.
        tokens: Source → tokens of its training documents.
        most_passes: Over the text of a phase.
        seconds: The budget; None for none.

    Raises:
        ConfigError: The budget is not enough for one pass over the text.
    """
    total, notes = sum(tokens.values()), tokens.get("notes", 0.0)
    in_two = 0 < notes < total
    one_pass = total + (notes if in_two else 0.0)
    passes = most_passes
    if seconds is not None:
        affordable = TRAINING * seconds * trial.tokens_per_second / one_pass
        if affordable < 1:
            raise ConfigError(
                f"one pass over these {one_pass:,.0f} tokens takes {clock(one_pass / trial.tokens_per_second / TRAINING)} "
                f"at the {trial.tokens_per_second:,.0f} tokens a second of {trial.device}, and the budget is {clock(seconds)}",
                remedy="Raise --budget, give fewer files, take a smaller model, or name more GPUs with --fleet.",
            )
        passes = min(passes, math.floor(affordable * 10**EPOCH_DIGITS) / 10**EPOCH_DIGITS)
    high, low = (0.3, 0.15) if trial.rotary else (0.15, 0.15)
    if not in_two:
        return [_phase(trial, "adapted", (), total, passes, "linear", low)]
    return [
        _phase(trial, "general", (), total, passes, "constant", high),
        _phase(trial, "adapted", ("notes",), notes, passes, "sqrt", low),
    ]


def _phase(
    trial: Trial, name: str, sources: Sequence[str], tokens: float, passes: float, schedule: str, mask_rate: float
) -> Phase:
    trained, length = tokens * passes, trial.max_length
    wanted = min(LARGEST_STEP, max(trained / STEPS, length * trial.processes))
    each = wanted / trial.processes  # of a step, on one process
    rounds = max(1, math.ceil(each / trial.micro_batch))
    micro_batch = max(length, round(each / rounds))
    accumulation = rounds * trial.processes
    step, rate = micro_batch * accumulation, rate_for(trial)
    lr = rate.rate * math.sqrt(step / rate.tokens)
    steps = max(1, round(trained / step))
    return Phase(
        name, tuple(sources), trained, passes, steps, micro_batch, accumulation, lr, schedule, mask_rate
    )  # the rate is rounded where it is written
