"""Stages of a run: short sequences or small batches first, as BERT's 90% of the steps at 128 tokens before 512.

Which stage a step is in follows from its number: from the progress of the run, not from the place in the data. The two part where a run
steps over bad batches, and where it trains another run longer. Epochs are counted through all stages, and on from the run before; none
is in two of them, so masks and order are never those of an earlier stage; what a stage leaves of its last epoch stays unread.

Sources: Devlin et al. 2019 (arXiv 1810.04805, appendix A.2) for lengths; McCandlish et al. 2018 (arXiv 1812.06162) for batches that grow.
"""

import itertools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from biomlm.core.checkpoint import Checkpoint
from biomlm.core.errors import ConfigError
from biomlm.core.manifest import digest, read_manifest
from biomlm.core.progress import human
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.batches import Batch, Batches
from biomlm.pretrain.data.config import BatchConfig, MixConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.data.sequence_builder import NEARLY
from biomlm.pretrain.objectives.config import OBJECTIVES, PAIRINGS

UPSAMPLED = 1000  # passes over a source in an epoch; no mixture goes so far


def stages(config: PretrainConfig) -> list[tuple[int, BatchConfig]]:
    """List the first step and the sizes of every stage; the last is `config.batch`.

    Raises:
        ConfigError: They are longer than the run, or one has longer sequences than the last.
    """
    planned, first = [], 0
    for stage in config.curriculum:
        given = {name: getattr(stage, name) for name in ("max_length", "tokens", "accumulation")}
        planned.append(
            (first, replace(config.batch, **{name: value for name, value in given.items() if value is not None}))
        )
        first += stage.steps or max(1, round((stage.share or 0) * config.steps))
        if planned[-1][1].max_length > config.batch.max_length:
            raise ConfigError(
                f"a stage of the curriculum has sequences up to {planned[-1][1].max_length} tokens, the last one only "
                f"{config.batch.max_length}",
                remedy="The longest belong into batch.max_length, which the model's positions follow.",
            )
    if first >= config.steps:
        raise ConfigError(
            f"the stages of the curriculum take {first} steps of {config.steps}", remedy="Leave some for the last one."
        )
    return [*planned, (first, config.batch)]


def stream(settings: Mapping[str, Any], batch: BatchConfig, shards: str) -> str:
    """Hash what decides which tokens are in which micro-batch of a stage's plan.

    Args:
        settings: A run's configuration as a dictionary, as its manifest holds it.
        batch: Sizes of the stage.
        shards: Fingerprint of the run's training split.
    """
    weights = settings["objective"]
    pairs = {name: weights[name] > 0 for name in PAIRINGS if OBJECTIVES[name].in_every_hash or weights.get(name)}
    return digest([shards, settings["seed"], asdict(batch), settings["mix"], pairs, settings["mlm"]["static_masks"]])


@dataclass(frozen=True)
class End:
    """Where in the data a run stopped.

    Args:
        stream: Of the stage it was in; empty if no other run can go on in the middle of its last epoch.
        epoch: First one of that stage.
        step: Steps of that stage's plan behind it.
        passes: Passes over the shards that it may have begun, over that source which it read most often.
    """

    stream: str
    epoch: int
    step: int
    passes: int


def end_of(run: Path, last: Checkpoint) -> End:
    """Tell where a run stopped, by its last checkpoint."""
    if "data" in last.state:
        return End(**last.state["data"])
    # Of a version that wrote only how many steps of its plan a run had read, those of the run before it included.
    read, record = last.step + last.state["guard"]["shift"], read_manifest(run, "pretrain|distill", finished=False)
    settings = record.config
    plan = stream(settings, BatchConfig(**settings["batch"]), record.inputs["shards"])
    most = UPSAMPLED if MixConfig(**settings["mix"]).active else 1  # an epoch is a step at least
    return End("" if settings["curriculum"] else plan, 0, read, most * read)


class Curriculum:
    """The micro-batches of a run, stage after stage.

    Where in the data it reads is known by `end`, of which all later stages' places follow.

    Args:
        shards: The training split.
        config: Of the run.
        segments: Whether the model has token types.
    """

    def __init__(self, shards: Shards, config: PretrainConfig, segments: bool):
        self.shards, self.config = shards, config
        self.stages: list[Batches] = []
        for first_step, batch in stages(config):
            stage = Batches(
                shards,
                config.mlm,
                batch,
                config.seed,
                pairing=config.objective.pairing,
                segments=segments,
                mix=config.mix,
                first_step=first_step,
                steps=config.steps,
                join=True,
            )
            if self.stages:
                stage.first_epoch = _behind(self.stages[-1], first_step - 1, stage)
            self.stages.append(stage)

    def stage(self, step: int) -> Batches:
        """Return the stage that a step, counted from 0, is in."""
        return self.stages[bisect_right(self.stages, step, key=lambda stage: stage.first_step) - 1]

    def names(self, step: int) -> list[tuple[int, int]]:
        """See `Batches.names`."""
        return self.stage(step).names(step)

    def step(self, step: int) -> list[Batch]:
        """See `Batches.step`."""
        return self.stage(step).step(step)

    def micro_batch(self, epoch: int, index: int) -> Batch | None:
        """See `Batches.micro_batch`."""
        stage = bisect_right(self.stages, epoch, key=lambda stage: stage.first_epoch) - 1
        return self.stages[stage].micro_batch(epoch, index)

    def make(self, name: tuple[int, ...]) -> Batch | None:
        """See `training.batches.NamedBatches`."""
        epoch, index = name
        return self.micro_batch(epoch, index)

    def title(self, name: tuple[int, ...]) -> str:
        """See `training.batches.Batches`."""
        epoch, index = name
        return f"micro-batch {index} of epoch {epoch}"

    def sizes(self, step: int) -> str:
        """See `training.batches.Batches`."""
        stage = self.stage(step)
        sizes, tokens = stage.batch, stage.tokens_per_step
        batch = f"{sizes.accumulation} x {human(sizes.tokens)}" if sizes.accumulation > 1 else human(sizes.tokens)
        if tokens < NEARLY * sizes.tokens * sizes.accumulation:
            batch = f"{human(tokens)} (all that the shards hold, not {batch})"
        return f"sequences of up to {sizes.max_length} tokens, {batch} a step"

    def smaller(self, step: int, fitting: int) -> str:
        """See `training.batches.Batches`; configured tokens are a mean, so a micro-batch may hold a sequence more."""
        sizes = self.stage(step).batch
        advised = fitting - sizes.max_length
        if advised >= sizes.max_length:
            accumulation = -(-sizes.tokens * sizes.accumulation // advised)
            return f"Give --batch.tokens {advised} --batch.accumulation {accumulation}: the same step in smaller parts."
        return (
            "Lower --batch.max_length or --batch.tokens, or take a smaller --model.size; the last checkpoint is whole."
        )

    def place(self, step: int) -> dict[str, Any]:
        """See `training.batches.Batches`."""
        return asdict(self.end(step))

    def resume(self, step: int, place: Mapping[str, Any]) -> None:
        """See `training.batches.Batches`."""
        self.go_on(step, End(**place))

    def end(self, step: int) -> End:
        """Return the place in the data after so many steps."""
        stage = self.stage(step)
        passes = max(one.epochs.passes_by(stage.names(step)[0][0]) for one in self.stages)
        return End(self._stream(stage), stage.first_epoch, step - stage.first_step + stage.ahead, passes)

    def go_on(self, step: int, end: End) -> None:
        """Read from a place on after `step` steps: the next batch of the same plan, or else the epoch behind all that was read."""
        stage = self.stage(step)
        if self._stream(stage) == end.stream:
            self._place(stage, end.epoch, end.step - (step - stage.first_step))
        else:
            self._place(stage, stage.epochs.epoch_behind(end.passes), stage.first_step - step)

    def step_over(self, step: int, steps: int) -> None:
        """Leave out, from `step` on, the batches that were read in the following `steps` steps."""
        stage, last = self.stage(step), step + steps - 1
        if self.stage(last) is stage:
            self._place(stage, stage.first_epoch, stage.ahead + steps)
        else:
            self._place(stage, _behind(self.stage(last), last, stage), stage.first_step - step)

    def _place(self, stage: Batches, first_epoch: int, ahead: int) -> None:
        """Place a stage in the data, and the later ones in the epochs behind it."""
        stage.first_epoch, stage.ahead = first_epoch, ahead
        for before, later in itertools.pairwise(self.stages[self.stages.index(stage) :]):
            later.first_epoch, later.ahead = _behind(before, later.first_step - 1, later), 0

    def _stream(self, stage: Batches) -> str:
        return stream(asdict(self.config), stage.batch, self.shards.fingerprint)

    @property
    def tokens_per_epoch(self) -> int:
        """The tokens of a pass of the last stage; passes of shorter sequences have more special tokens, else they are the same."""
        return self.stages[-1].epochs.tokens_per_pass

    def work(self, steps: int) -> float:
        """Estimate the tokens that the first steps are expected to read: stages of short sequences or small batches take less time."""
        ends = [*(stage.first_step for stage in self.stages[1:]), steps]
        return sum(
            stage.tokens_per_step * max(min(end, steps) - stage.first_step, 0)
            for stage, end in zip(self.stages, ends, strict=True)
        )

    def passes(self, steps: int) -> dict[str, float]:
        """Count how often each mixed source has been read after so many steps."""
        total: dict[str, float] = defaultdict(float)
        for stage, following in zip(self.stages, [*self.stages[1:], None], strict=True):
            end = steps if following is None else min(steps, following.first_step)
            if end > stage.first_step:
                for name, count in stage.passes(end).items():
                    total[name] += count
        return dict(total)


def _behind(before: Batches, step: int, stage: Batches) -> int:
    """Return a stage's first epoch behind the one that another stage reads in a step; either may join passes to epochs."""
    return -(-(before.names(step)[-1][0] + 1) * before.epochs.joined // stage.epochs.joined)
