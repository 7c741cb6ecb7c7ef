"""The engine that a configuration asks for."""

import sys

from biomlm.core.errors import ConfigError
from biomlm.model.compute import prepare
from biomlm.model.device import choose
from biomlm.model.encoder import MaskedLM
from biomlm.model.optim.optimizer import freeze
from biomlm.pretrain.config import PretrainConfig
from biomlm.training.distributed.ddp import DDPEngine
from biomlm.training.distributed.deepspeed import DeepSpeedEngine
from biomlm.training.distributed.engine import Engine, LossModule
from biomlm.training.distributed.fsdp import FSDPEngine
from biomlm.training.distributed.process_group import World
from biomlm.training.objective import Objective


def make(config: PretrainConfig, model: MaskedLM, objective: Objective, world: World) -> Engine:
    """Prepare a model, the same on every rank, and its optimiser.

    Raises:
        ConfigError: The engine needs more than one process, or a package that is not installed, or nothing is left to train.
    """
    device = choose(config.precision)
    chosen = prepare(model.encoder, device, config.compute)
    if world.is_main:
        print(f"computing on {chosen}", file=sys.stderr)
    freeze(model, config.freeze_layers)
    loss = LossModule(model, objective, device)
    if config.engine == "deepspeed":
        return DeepSpeedEngine(loss, device, world, config)
    if config.engine == "fsdp":
        if world.size == 1:
            raise ConfigError(
                "FSDP shares a model out over processes, and there is only one",
                remedy="Start it with torchrun or srun, or give --engine torch.",
            )
        return FSDPEngine(loss, device, world, config.optim, config.steps)
    return DDPEngine(loss, device, world, config.optim, config.steps)
