"""The engine that a configuration asks for."""

from biomlm.core.errors import ConfigError
from biomlm.model.optim.config import OptimConfig
from biomlm.training.config import DeepSpeedConfig, EngineName
from biomlm.training.distributed.ddp import DDPEngine
from biomlm.training.distributed.deepspeed import DeepSpeedEngine
from biomlm.training.distributed.engine import Engine, LossModule
from biomlm.training.distributed.fsdp import FSDPEngine
from biomlm.training.distributed.process_group import World


def make(
    engine: EngineName, loss: LossModule, world: World, *, optim: OptimConfig, steps: int, deepspeed: DeepSpeedConfig
) -> Engine:
    """Make an engine around a model, the same on every rank, with its optimiser.

    Args:
        engine: Its name.
        loss: Model and objective.
        world: The ranks.
        optim: How the weights move.
        steps: Of the whole run.
        deepspeed: What the user says of DeepSpeed, for that engine.

    Raises:
        ConfigError: The engine needs more than one process, or a package that is not installed, or nothing is left to train.
    """
    if engine == "deepspeed":
        return DeepSpeedEngine(loss, world, optim=optim, steps=steps, config=deepspeed)
    if engine == "fsdp":
        if world.size == 1:
            raise ConfigError(
                "FSDP shares a model out over processes, and there is only one",
                remedy="Start it with torchrun or srun, or give --engine torch.",
            )
        return FSDPEngine(loss, world, optim, steps)
    return DDPEngine(loss, world, optim, steps)
