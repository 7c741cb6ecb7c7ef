"""The engine that a configuration asks for."""

import sys

from biolm.core.errors import ConfigError
from biolm.model.compute import prepare
from biolm.model.device import choose
from biolm.model.encoder import MaskedLM
from biolm.model.optim import freeze
from biolm.pretrain.config import PretrainConfig
from biolm.pretrain.engines.base import Engine, Loss
from biolm.pretrain.engines.deepspeed import DeepSpeed
from biolm.pretrain.engines.fsdp import Fsdp
from biolm.pretrain.engines.replicated import Replicated
from biolm.pretrain.engines.world import World
from biolm.pretrain.objective import Objective


def make(config: PretrainConfig, model: MaskedLM, objective: Objective, world: World) -> Engine:
    """Prepare a model, the same on every rank, and its optimiser.

    Raises:
        ConfigError: The engine needs more than one process, or a package that is not installed, or nothing is left to train.
    """
    device = choose(config.precision)
    chosen = prepare(model.encoder, device, config.compute)
    if world.first:
        print(f"computing on {chosen}", file=sys.stderr)
    freeze(model, config.freeze_layers)
    loss = Loss(model, objective, device)
    if config.engine == "deepspeed":
        return DeepSpeed(loss, device, world, config)
    if config.engine == "fsdp":
        if world.size == 1:
            raise ConfigError(
                "FSDP shares a model out over processes, and there is only one",
                remedy="Start it with torchrun or srun, or give --engine torch.",
            )
        return Fsdp(loss, device, world, config.optim, config.steps)
    return Replicated(loss, device, world, config.optim, config.steps)
