"""The configuration of the optimiser, in a module without torch: `--help` reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from biomlm.core.errors import ConfigError
from biomlm.core.fields import only
from biomlm.model.optim.registry import OPTIMISERS, reading

if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(OPTIMISERS)]

LAST = ("wsd", "sqrt")  # schedules that decay in the last of the steps


def _read_by(option: str) -> tuple[Callable[[Any], bool], str]:
    """Say when an option has an effect that not every optimiser reads, and what it needs, for `only`."""
    return lambda optim: option in OPTIMISERS[optim.name].options, f"--optim.name {' or '.join(reading(option))}"


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its schedule; the defaults are RoBERTa pretraining's but for `clip`, which RoBERTa leaves out, and the peak
    learning rate, which depends on the batch.

    Args:
        name: How weights are moved: {optimisers}.
        lr: Peak learning rate: RoBERTa's on batches of 4M tokens is 6e-4 (base) or 4e-4 (large), fine-tuning's 1e-5 to 6e-5.
        betas: Decay of the first and second moment.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled; not applied to biases and norms.
        clip: Largest norm of the gradient; 0 for no limit.
        warmup: Share of the steps in which the rate rises linearly from 0.
        schedule: What follows the warm-up: `linear`, `cosine` or `polynomial` decay; `constant`; `wsd` (constant, then linear decay in
            the last `decay` of the steps, arXiv 2404.06395); `sqrt` (the same with 1 - square root of the time gone, arXiv 2405.18392).
        final: Share of the peak that decays end at (GatorTron: 0.1).
        decay: Share of the steps in which `wsd` and `sqrt` decay.
        power: Of the `polynomial` decay; 1 is linear.
        ema: Decay a step of a running mean of the weights, kept beside them, evaluated too, and taken out by `biomlm pretrain average`; it
            starts as (1 + t) / (10 + t), as TensorFlow's, t steps after the mean began; 0 keeps none.
        apex: Take NVIDIA apex's fused kernel, where that is built for CUDA (docs/install.md).
        layer_decay: Each layer's rate is that of the layer above times this (Howard and Ruder 2018, arXiv 1801.06146); 1 for one rate.
    """

    name: Name = "adamw"
    lr: float = 5e-4
    betas: tuple[float, float] = only((0.9, 0.98), *_read_by("betas"))
    eps: float = only(1e-6, *_read_by("eps"))
    weight_decay: float = only(0.01, *_read_by("weight_decay"))
    clip: float = 1.0
    warmup: float = 0.06
    schedule: Literal["linear", "cosine", "polynomial", "constant", "wsd", "sqrt"] = "linear"
    final: float = only(0.0, lambda optim: optim.schedule != "constant", "another --optim.schedule than constant")
    decay: float = only(0.1, lambda optim: optim.schedule in LAST, "--optim.schedule wsd or sqrt")
    power: float = only(1.0, lambda optim: optim.schedule == "polynomial", "--optim.schedule polynomial")
    ema: float = 0.0
    apex: bool = only(False, *_read_by("apex"), runtime=True)
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.clip < 0:
            raise ConfigError(
                "optim.lr must be positive, optim.clip not negative", remedy="Leave them out for the defaults."
            )
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(
                "optim.layer_decay must lie in (0, 1]", remedy="0.8 to 0.95 are usual; 1 switches it off."
            )
        if not (0 <= self.final <= 1 and 0 < self.decay <= 1 and self.power > 0):
            raise ConfigError(
                "optim.final lies in [0, 1], optim.decay in (0, 1], and optim.power is positive",
                remedy="The defaults are 0, 0.1 and 1.",
            )
        if not 0 <= self.ema < 1:
            raise ConfigError("optim.ema must lie in [0, 1)", remedy="0.999 to 0.9999 are usual; 0 keeps none.")
        if not 0 <= self.warmup <= 1:
            raise ConfigError("optim.warmup is a share of the steps, from 0 to 1", remedy="0.06 is RoBERTa's.")
        if self.schedule in LAST and self.warmup + self.decay > 1 + 1e-9:
            problem = f"optim.warmup ({self.warmup:g}) and optim.decay ({self.decay:g}) overlap: the rate would jump"
            raise ConfigError(problem, remedy="Let the two shares add up to 1 at most.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError("optim.betas must lie in [0, 1)", remedy="RoBERTa's are 0.9 and 0.98.")


OptimConfig.__doc__ = str(OptimConfig.__doc__).replace(
    "{optimisers}", "; ".join(f"`{name}` ({row.about})" for name, row in OPTIMISERS.items())
)
