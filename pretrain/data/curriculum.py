"""Stages of a run: short sequences or small batches first, as BERT's 90% of the steps at 128 tokens before 512.

Which stage a step is in follows from its number, so a resumed run needs to know nothing else. Epochs are counted through all stages
and none is in two of them, so masks and order are never those of an earlier stage; what a stage leaves of its last epoch stays unread.

Sources: Devlin et al. 2019 (arXiv 1810.04805, appendix A.2) for lengths; McCandlish et al. 2018 (arXiv 1812.06162) for batches that grow.
"""

from bisect import bisect_right
from collections import defaultdict
from dataclasses import replace

from biomlm.core.errors import ConfigError
from biomlm.pretrain.config import BatchConfig, PretrainConfig
from biomlm.pretrain.data.batches import Batch, Batches
from biomlm.pretrain.data.dataset import Shards


def stages(config: PretrainConfig) -> list[tuple[int, BatchConfig]]:
    """First step and sizes of every stage; the last is `config.batch`.

    Raises:
        ConfigError: They are longer than the run, or one has longer sequences than the last.
    """
    found, first = [], 0
    for stage in config.curriculum:
        given = {name: getattr(stage, name) for name in ("max_length", "tokens", "accumulation")}
        found.append(
            (first, replace(config.batch, **{name: value for name, value in given.items() if value is not None}))
        )
        first += stage.steps or max(1, round((stage.share or 0) * config.steps))
        if found[-1][1].max_length > config.batch.max_length:
            raise ConfigError(
                f"a stage of the curriculum has sequences up to {found[-1][1].max_length} tokens, the last one only "
                f"{config.batch.max_length}",
                remedy="The longest belong into batch.max_length, which the model's positions follow.",
            )
    if first >= config.steps:
        raise ConfigError(
            f"the stages of the curriculum take {first} steps of {config.steps}", remedy="Leave some for the last one."
        )
    return [*found, (first, config.batch)]


class Curriculum:
    """The micro-batches of a run, stage after stage.

    Args:
        shards: The training split.
        config: Of the run.
        segments: Whether the model has token types.
    """

    def __init__(self, shards: Shards, config: PretrainConfig, segments: bool):
        self.stages: list[Batches] = []
        for first_step, batch in stages(config):
            first_epoch = self.stages[-1].names(first_step - 1)[-1][0] + 1 if self.stages else 0
            made = Batches(
                shards,
                config.mlm,
                batch,
                config.seed,
                config.objective.pair,
                segments,
                config.mix,
                first_step,
                first_epoch,
                config.steps,
            )
            self.stages.append(made)

    def stage(self, step: int) -> Batches:
        """The stage that a step, counted from 0, is in."""
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

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of an epoch of the last stage; those of shorter sequences have more special tokens, else they are the same."""
        return self.stages[-1].tokens_per_epoch

    def work(self, steps: int) -> float:
        """Tokens that the first steps are expected to read: stages of short sequences or small batches take less time."""
        ends = [*(stage.first_step for stage in self.stages[1:]), steps]
        return sum(
            stage.tokens_per_step * max(min(end, steps) - stage.first_step, 0)
            for stage, end in zip(self.stages, ends, strict=True)
        )

    def passes(self, steps: int) -> dict[str, float]:
        """How often each mixed source has been read after so many steps."""
        total: dict[str, float] = defaultdict(float)
        for stage, following in zip(self.stages, [*self.stages[1:], None], strict=True):
            end = steps if following is None else min(steps, following.first_step)
            if end > stage.first_step:
                for name, count in stage.passes(end).items():
                    total[name] += count
        return dict(total)
