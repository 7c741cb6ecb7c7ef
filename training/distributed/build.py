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
    engine: EngineName,
    loss: LossModule,
    world: World,
    *,
    optim: OptimConfig,
    steps: int,
    deepspeed: DeepSpeedConfig,
    half_gradients: bool,
) -> Engine:
    """Make an engine around a model, the same on every rank, with its optimiser.

    Args:
        engine: Its name.
        loss: Model and objective.
        world: The ranks.
        optim: How the weights move.
        steps: Of the whole run.
        deepspeed: What the user says of DeepSpeed, for that engine.
        half_gradients: Whether DistributedDataParallel exchanges gradients in 16 bits.

    Raises:
        ConfigError: The engine needs more than one process, or a package that is not installed, or nothing is left to train, or 16-bit
            gradients are asked for of a computation in float32.
    """
    if engine == "deepspeed":
        return DeepSpeedEngine(loss, world, optim=optim, steps=steps, config=deepspeed)
    if engine == "fsdp":
        if world.size == 1:
            raise ConfigError(
                "FSDP shares a model out over processes, and there is only one",
                remedy="Start it with torchrun or srun, or give --engine torch.",
            )
        if optim.apex:
            raise ConfigError("apex's optimisers do not know sharded parameters", remedy="Leave --optim.apex out.")
        return FSDPEngine(loss, world, optim, steps)
    if half_gradients and loss.device.precision == "fp32":
        raise ConfigError(
            "half_gradients exchanges gradients in the precision of the computation, which is fp32",
            remedy="Leave out --half_gradients, or give --precision bf16 or fp16.",
        )
    return DDPEngine(loss, world, optim, steps, half_gradients=half_gradients)
