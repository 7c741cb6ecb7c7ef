"""Outputs of a model for records: batches of like length, results in the records' order."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from biomlm.core.progress import Bar
from biomlm.finetune.tasks.examples import Example, by_length, collate
from biomlm.model.device import Device
from biomlm.training.distributed.process_group import RankInfo, World


@torch.inference_mode()
def outputs(
    model: nn.Module,
    examples: Sequence[Sequence[Example]],
    tokens: int,
    device: Device,
    *,
    bar: Bar | None = None,
    world: World | None = None,
) -> list[Tensor]:
    """Compute for each record the outputs [m, …] at all its labelled places, on the CPU.

    The ranks compute batches round-robin and exchange their outputs, so every rank has all, with the same bits on any number of ranks.

    Args:
        model: A task's model; its training mode is put back.
        examples: Each record's, from `Task.examples`.
        tokens: Most tokens in a forward pass.
        device: Where the model is.
        bar: Moved forward by tokens.
        world: The ranks, which must all call this; by default this process is alone.
    """
    world = world or World(RankInfo())
    training = model.training
    model.eval()
    flat = [example for record in examples for example in record]
    rows_of: dict[int, Tensor] = {}
    groups = list(by_length(flat, range(len(flat)), tokens))
    for first in range(0, len(groups), world.size):
        world.break_off_if_asked()
        group = groups[first + world.rank] if first + world.rank < len(groups) else []
        if not group:
            continue
        batch = collate([flat[i] for i in group]).to(device.torch)
        with device.autocast():
            logits = model(batch.packed, batch.positions_m)
        rows = logits.float().cpu().split([len(flat[i].positions) for i in group])
        rows_of.update(zip(group, rows, strict=True))
        if bar is not None:
            bar.advance(len(batch.packed.input_ids_t))
    model.train(training)
    if world.size > 1:
        rows_of = _exchanged(rows_of, [len(example.positions) for example in flat], world)
    in_order, at = [], 0
    for record in examples:
        parts = [rows_of[i] for i in range(at, at + len(record))]
        in_order.append(torch.cat(parts) if parts else torch.empty(0, 1))
        at += len(record)
    return in_order


def _exchanged(rows_of: dict[int, Tensor], sizes: list[int], world: World) -> dict[int, Tensor]:
    """Give every rank the outputs of all examples, of which `sizes` tells the rows; the first rank has some of any."""
    shape = world.broadcast(list(next(iter(rows_of.values())).shape[1:]) if rows_of else None)
    if shape is None:  # no examples
        return {}
    parts = torch.split(torch.zeros(sum(sizes), *shape), sizes)
    for i, rows in rows_of.items():
        parts[i].copy_(rows)
    return dict(enumerate(torch.split(world.all_reduce(torch.cat(parts)), sizes)))
