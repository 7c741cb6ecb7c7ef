"""Run by test_deepspeed.py in a process of its own: the first steps of a small model by DeepSpeed and by torch.

Reads a JSON list of cases from standard input; prints for each what became of both, step by step.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import deepspeed
import torch

from biomlm.model.config import ModelConfig
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.optim.config import OptimConfig
from biomlm.model.packed import Packed
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.pretrain.objectives.config import ObjectiveConfig
from biomlm.training.anomaly_guard import Guard
from biomlm.training.config import DeepSpeedConfig
from biomlm.training.distributed.ddp import DDPEngine
from biomlm.training.distributed.deepspeed import DeepSpeedEngine
from biomlm.training.distributed.engine import Engine, LossModule
from biomlm.training.distributed.loss_scale import START
from biomlm.training.distributed.process_group import RankInfo, World
from biomlm.training.objective import LossDenominators

PIECES, HIGH = 50, 2.0**40
CPU = torch.device("cpu")


def batch(seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    ids_t = torch.randint(5, PIECES, (64,), generator=draw)
    positions_m = torch.arange(0, 64, 4)
    return Batch(Packed(ids_t, (16,) * 4), positions_m, ids_t[positions_m].clone())


def steps(engine: Engine, config: PretrainConfig, overflow: int | None) -> dict[str, list[Any]]:
    """Two micro-batches a step; in the step `overflow` the loss scale is far too high, and then as it was."""
    guard, seen = Guard(config.guard), {"norm": [], "said": [], "scale": [], "weights": [], "moved": []}
    first = {name: tensor.clone() for name, tensor in engine.state_tensors()["model"].items()}
    for step in range(config.steps):
        engine.begin(step, False)
        if engine.scale is not None:
            engine.scale.factor = HIGH if step == overflow else START
        parts = [batch(2 * step), batch(2 * step + 1)]
        losses = [
            engine.backward(part, LossDenominators.of(parts), 1.0, i == 1)["loss"] for i, part in enumerate(parts)
        ]
        result = engine.step({"loss": torch.stack(losses).sum()}, guard.accepts)
        if result.overflowed:
            guard.overflowed(result.scale)
        assert result.moved == (not guard.problem)
        state = engine.state_tensors()["model"]
        seen["norm"].append(result.norm)
        seen["said"].append(guard.problem)
        seen["scale"].append(engine.factor)
        seen["weights"].append(float(sum(tensor.double().abs().sum() for tensor in state.values())))
        seen["moved"].append(float(sum((state[name] - first[name]).double().abs().sum() for name in first)))
    return seen


def run(case: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ds.json"
        file.write_text(json.dumps(case["ds_config"]))
        ours = DeepSpeedConfig(stage=case["stage"], config=str(file))
        optim = OptimConfig(name=case["optimizer"], lr=1e-2, clip=0.5, warmup=0.0)
        number = case.get("steps", 3)
        config = PretrainConfig(shards="S", out="O", steps=number, deepspeed=ours, optim=optim)
        device = Device(CPU, case["precision"])
        found = {}
        for name in ("torch", "deepspeed"):
            torch.manual_seed(0)
            shape = ModelConfig(
                num_hidden_layers=2, hidden_size=32, num_attention_heads=2, hidden_dropout=0, attention_dropout=0
            )
            model = MaskedLM(shape.resolve(PIECES, 16, 1))
            loss = LossModule(model, PretrainObjective(ObjectiveConfig(), model.config), device)
            world = World(RankInfo())
            engine: Engine = (
                DDPEngine(loss, world, optim, number)
                if name == "torch"
                else DeepSpeedEngine(loss, world, optim=optim, steps=number, config=ours)
            )
            found[name] = steps(engine, config, case.get("overflow"))
    return found


def main() -> None:
    accelerator = deepspeed.accelerator.get_accelerator()
    accelerator.is_fp16_supported = lambda: True  # slow here, but right
    for case in json.load(sys.stdin):
        print("\n" + json.dumps(run(case)), flush=True)


if __name__ == "__main__":
    main()
