"""fp16: the loss is scaled, no product leaves fp16's range at the scale that training starts with, and an overflow costs one step."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from biomlm.convert.load import load_model
from biomlm.core import checkpoint, cli
from biomlm.core.files import read_json
from biomlm.core.metrics import read_metrics
from biomlm.finetune.config import BatchConfig, FinetuneConfig
from biomlm.finetune.data import dataset
from biomlm.finetune.tasks import build
from biomlm.finetune.training.batches import FoldBatches, TaskBatch
from biomlm.finetune.training.fit import TaskObjective, build_model
from biomlm.model.device import Device
from biomlm.training.distributed.ddp import DDPEngine
from biomlm.training.distributed.engine import LossModule
from biomlm.training.distributed.loss_scale import START
from biomlm.training.distributed.process_group import RankInfo, World
from biomlm.training.objective import LossDenominators

LARGEST = 65_504.0  # of fp16


@pytest.mark.parametrize("crf", [False, True])
def test_no_product_leaves_fp16s_range(
    crf: bool, tiny_model: Path, toy: Path, fp16_products: Callable[[], Any]
) -> None:
    """And the gradients, the scale divided out, are float32's."""
    config = FinetuneConfig(str(tiny_model), "ner", str(toy), "run", crf=crf, batch=BatchConfig(size=16))
    data = dataset.read(config)
    seen: dict[str, dict[str, Tensor]] = {}
    for precision in ("fp32", "fp16"):
        loaded = load_model(str(tiny_model))
        task: Any = build.make_task(config, loaded, data.folds["train"], data.unseen)
        model = build_model(task, loaded, config).eval()  # without dropout
        model.training = True  # the head computes as in training
        loss = LossModule(model, TaskObjective(task), Device(torch.device("cpu"), precision))  # type: ignore[arg-type]
        engine = DDPEngine(loss, World(RankInfo()), config.optim, 10)
        examples = [example for record in task.examples(data.folds["train"]) for example in record]
        batch = FoldBatches(examples, config.batch, 1).make((0,))
        engine.begin(0, False)
        with fp16_products() as products:
            terms = engine.backward(batch, batch.denominators(), 1.0, True)
        gradients: dict[str, Tensor] = {}

        def keep(_: float, norm: float, engine: DDPEngine = engine, into: dict[str, Tensor] = gradients) -> bool:
            assert math.isfinite(norm)
            into.update({name: p.grad.clone() for name, p in engine.trained.items() if p.grad is not None})
            return False

        result = engine.step(terms, keep)
        assert (result.moved, result.overflowed) == (False, False)
        seen[precision] = gradients
        if precision == "fp16":
            assert products.largest, "nothing was computed in fp16"
            assert max(products.largest) < LARGEST
            assert result.scale == START
    assert seen["fp32"].keys() == seen["fp16"].keys()
    for name, exact in seen["fp32"].items():
        assert (seen["fp16"][name] - exact).norm() <= 3e-2 * exact.norm() + 1e-6, name


def test_an_overflow_costs_one_step_and_the_scale_is_kept(
    tiny_model: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also over an interruption behind the first epoch."""
    plain, save, kept = TaskObjective.forward, checkpoint.save, list[Any]()

    def forward(self: TaskObjective, model: Any, batch: TaskBatch, totals: LossDenominators) -> dict[str, Tensor]:
        terms = plain(self, model, batch, totals)
        return {"loss": terms["loss"] * (1e36 if batch.name == (1,) else 1.0)}  # finite itself, but not times the scale

    def stop_after_saving(*args: Any, **kwargs: Any) -> Path:
        kept.append(args[1].state)
        save(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(TaskObjective, "forward", forward)
    monkeypatch.setattr(checkpoint, "save", stop_after_saving)
    out = tmp_path / "run"
    argv = ["finetune", "--model", str(tiny_model), "--task", "ner", "--data", str(toy), "--out", str(out)]
    argv += ["--epochs", "2", "--batch.size", "32", "--optim.lr", "3e-3", "--precision", "fp16"]
    assert cli.run(argv) == 130
    steps = len(kept) and kept[0]["engine"]["updates"] + 1
    assert kept[0]["engine"] == {"updates": steps - 1, "scale": [START / 2, steps - 2]}
    monkeypatch.setattr(checkpoint, "save", save)
    assert cli.run(argv) == 0
    (event,) = (record["event"] for record in read_metrics(out / "seed_1") if record["split"] == "guard")
    assert "the loss scale becomes 32768 (step 2 of epoch 1): this step is left out" in event
    result: Any = read_json(out / "seed_1/result.json")
    assert (result["guard"]["overflows"], result["guard"]["skipped"]) == (1, 0)
    assert result["steps"] == 2 * steps
    assert result["history"][1]["loss"] < result["history"][0]["loss"]
    assert read_json(out / "manifest.json")["resolved"]["precision"] == "fp16"  # type: ignore[index]
