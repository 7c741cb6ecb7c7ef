"""Outputs of a model for records: batches of like length, results in the records' order."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from biomlm.core.progress import Bar
from biomlm.finetune.tasks.examples import Example, by_length, collate
from biomlm.model.device import Device


@torch.inference_mode()
def outputs(
    model: nn.Module, examples: Sequence[Sequence[Example]], tokens: int, device: Device, bar: Bar | None = None
) -> list[Tensor]:
    """Compute for each record the outputs [m, …] at all its labelled places, on the CPU.

    Args:
        model: A task's model; its training mode is put back.
        examples: Each record's, from `Task.examples`.
        tokens: Most tokens in a forward pass.
        device: Where the model is.
        bar: Moved forward by tokens.
    """
    training = model.training
    model.eval()
    flat = [example for record in examples for example in record]
    rows_of: dict[int, Tensor] = {}
    for group in by_length(flat, range(len(flat)), tokens):
        batch = collate([flat[i] for i in group]).to(device.torch)
        with device.autocast():
            logits = model(batch.packed, batch.positions_m)
        rows = logits.float().cpu().split([len(flat[i].positions) for i in group])
        rows_of.update(zip(group, rows, strict=True))
        if bar is not None:
            bar.advance(len(batch.packed.input_ids_t))
    model.train(training)
    in_order, at = [], 0
    for record in examples:
        parts = [rows_of[i] for i in range(at, at + len(record))]
        in_order.append(torch.cat(parts) if parts else torch.empty(0, 1))
        at += len(record)
    return in_order
