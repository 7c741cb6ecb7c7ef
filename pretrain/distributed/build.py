"""The engine that a configuration asks for."""

import sys

from biomlm.core.errors import ConfigError
from biomlm.model.compute import prepare
from biomlm.model.device import choose
from biomlm.model.encoder import MaskedLM
from biomlm.model.optim.optimizer import freeze
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.distributed.ddp import Replicated
from biomlm.pretrain.distributed.deepspeed import DeepSpeed
from biomlm.pretrain.distributed.engine import Engine, Loss
from biomlm.pretrain.distributed.fsdp import Fsdp
from biomlm.pretrain.distributed.process_group import World
from biomlm.pretrain.objectives.base import Objective


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
