"""A grid of learning rates and batch sizes: one run for each point with the first seed, the best development score chosen.

The test fold has no part in it. A point whose file stands is done, so an interrupted grid goes on.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from biomlm.convert.load import Loaded
from biomlm.core.files import read_if_done, write_json
from biomlm.finetune.config import FinetuneConfig
from biomlm.finetune.tasks.base import G, R, Task
from biomlm.finetune.training.fit import build_model, fit
from biomlm.model.device import Device
from biomlm.training.distributed.process_group import World

FOLDER = "grid"


def search(
    out: Path,
    task: Task[R, G],
    load: Callable[[], Loaded],
    *,
    train: Sequence[R],
    dev: Sequence[R],
    config: FinetuneConfig,
    device: Device,
    world: World,
) -> tuple[FinetuneConfig, list[dict[str, Any]]]:
    """Return the configuration with the best point's values, and every point's score; of equal ones the first.

    Args:
        out: The run folder; points are in `grid/`.
        task: What is learnt.
        load: Reads the model anew.
        train: The training fold.
        dev: The development fold.
        config: Of the run.
        device: Where to run.
        world: The ranks.
    """
    points = list(product(config.grid.lr or [config.optim.lr], config.grid.size or [config.batch.size]))
    if len(points) == 1:
        return at_point(config, *points[0]), []
    metric = task.scorer.metric
    table: list[dict[str, Any]] = []
    for lr, size in points:
        file = out / FOLDER / f"lr_{lr:g}_size_{size}.json"
        point = world.on_main(partial(read_if_done, file))
        if point is None:
            folder, at_this_point = file.with_suffix(""), at_point(config, lr, size)
            model = build_model(task, load(), at_this_point)
            best, _ = fit(
                folder,
                task,
                model,
                train=train,
                dev=dev,
                config=at_this_point,
                seed=config.seed,
                device=device,
                world=world,
            )
            point = {"lr": lr, "size": size, "epoch": best.epoch, f"dev {metric}": best.value}
            if world.is_main:
                write_json(file, point)
                shutil.rmtree(folder)
        table.append(point)
    chosen = max(table, key=lambda point: point[f"dev {metric}"])
    return at_point(config, chosen["lr"], chosen["size"]), table


def at_point(config: FinetuneConfig, lr: float, size: int) -> FinetuneConfig:
    """Return the configuration at one point."""
    return replace(config, optim=replace(config.optim, lr=lr), batch=replace(config.batch, size=size))
