"""The engine of a configuration of pretraining or distillation, around a prepared model."""

import sys
from typing import Any

from biomlm.model.compute import prepare
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.optim.optimizer import freeze
from biomlm.pretrain.config import PretrainConfig
from biomlm.training.distributed.build import make
from biomlm.training.distributed.engine import Engine, LossModule
from biomlm.training.distributed.process_group import World
from biomlm.training.objective import Objective


def make_engine(
    config: PretrainConfig, model: MaskedLM, objective: Objective[Any, Any], world: World, *, device: Device
) -> tuple[Engine, str]:
    """Set a model, the same on every rank, up for training, and say in words what it computes on.

    Raises:
        ConfigError: The engine or a kernel that was asked for cannot run here, or nothing is left to train.
    """
    assert config.engine != "fairseq", "it has a loop of its own"
    kernels = prepare(model.encoder, device, config.compute)
    if world.is_main:
        print(f"computing on {kernels}", file=sys.stderr)
    freeze(model, config.freeze_layers)
    loss = LossModule(model, objective, device)
    engine = make(
        config.engine,
        loss,
        world,
        optim=config.optim,
        steps=config.steps,
        deepspeed=config.deepspeed,
        half_gradients=config.half_gradients,
    )
    return engine, kernels
