"""Training steps on one GPU: model FLOPs utilisation beside Hugging Face's, at base and large size with 512 tokens, bf16.

    python benchmarks/gpu.py                                        # under eight minutes on an H100; needs torch, transformers, triton
    python benchmarks/gpu.py --sizes tiny --rows 4 --length 64 --vocab_size 500 --seconds 1   # for a look, on a CPU

Utilisation counts the products that a step must do (`biolm.pretrain.flops`: the head at masked positions only, nothing twice), over
the datasheet's rate and over that of a matrix product measured here. Random ids stand for text; every row is full.
Each side runs by itself, since two models may not fit; out of memory halves its rows.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peers import roberta
from torch import nn

from biolm.model.compute import ComputeConfig, prepare
from biolm.model.config import EncoderConfig, ModelConfig
from biolm.model.device import Device, choose
from biolm.model.encoder import MaskedLM
from biolm.model.optim import OptimConfig, Optimizer
from biolm.model.packed import Packed
from biolm.pretrain.flops import measured_peak, peak, step_flops

MASK_RATE = 0.15
BLOCK = 5  # steps between two looks at the clock

Step = Callable[[], None]


@dataclass
class Row:
    """One line of the table."""

    side: str
    size: str
    rows: int
    tokens_per_second: float
    share_of_datasheet: float
    share_of_measured: float
    peak_gb: float


def ours(config: EncoderConfig, device: Device, rows: int, length: int, compiled: bool) -> Step:
    """Our step on a random batch."""
    model = MaskedLM(config).to(device.torch).train()
    prepare(model.encoder, device, ComputeConfig(compile=compiled))
    optimizer = Optimizer(dict(model.named_parameters()), config.num_hidden_layers, OptimConfig(lr=1e-4), 100_000)
    ids_t = torch.randint(4, config.vocab_size, (rows * length,))
    positions_m = torch.randperm(len(ids_t))[: int(MASK_RATE * len(ids_t))].sort().values.to(device.torch)
    packed = Packed(ids_t, (length,) * rows).to(device.torch)
    labels_m = packed.input_ids_t[positions_m]

    def step() -> None:
        with device.autocast():
            loss, _ = model.masked_loss(model.encoder(packed)[-1][positions_m], labels_m)
        (loss / len(labels_m)).backward()
        optimizer.step(0)

    return step


def theirs(config: EncoderConfig, device: Device, rows: int, length: int) -> Step:
    """Hugging Face's class, fused AdamW, logits at every position."""
    model = roberta(config).to(device.torch).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids_bl = torch.randint(4, config.vocab_size, (rows, length), device=device.torch)
    mask_bl = torch.ones_like(ids_bl)
    labels_bl = ids_bl.where(torch.rand(ids_bl.shape, device=device.torch) < MASK_RATE, -100)

    def step() -> None:
        with device.autocast():
            loss = model(input_ids=ids_bl, attention_mask=mask_bl, labels=labels_bl).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def timed(step: Step, steps: int, device: Device) -> float:
    """Seconds a step."""
    wait = torch.cuda.synchronize if device.torch.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return (time.perf_counter() - start) / steps


def fitting(make: Callable[[int], Step], rows: int, device: Device) -> tuple[Step, int]:
    """A step that has run three times, at the largest number of rows that fits."""
    while True:
        try:
            step = make(rows)
            timed(step, 3, device)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            rows //= 2
            if not rows:
                raise
        else:
            return step, rows


def compare(size: str, args: argparse.Namespace, device: Device) -> list[Row]:
    """Both sides at one size."""
    config = ModelConfig(size=size).resolve(args.vocab_size, args.length, 1)
    makers: dict[str, Callable[[int], Step]] = {
        "biolm": lambda rows: ours(config, device, rows, args.length, compiled=False),
        "transformers": lambda rows: theirs(config, device, rows, args.length),
    }
    if device.torch.type == "cuda":
        makers["biolm compiled"] = lambda rows: ours(config, device, rows, args.length, compiled=True)
    found = []
    for side, make in makers.items():  # one after the other: two models and their moments may not fit together
        if device.torch.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step, rows = fitting(make, args.rows, device)
        seconds, end = [], time.monotonic() + args.seconds
        while time.monotonic() < end or len(seconds) < 3:
            seconds.append(timed(step, BLOCK, device))
        used = torch.cuda.max_memory_allocated() / 1e9 if device.torch.type == "cuda" else float("nan")
        del step
        tokens = rows * args.length
        flops = step_flops(config, [args.length] * rows, int(MASK_RATE * tokens)) / statistics.median(seconds)
        speed = tokens / statistics.median(seconds)
        found.append(Row(side, size, rows, speed, flops / peak(device), flops / measured_peak(device), used))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["base", "large"])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--vocab_size", type=int, default=50_048)
    parser.add_argument("--seconds", type=float, default=30, help="for each side and size")
    parser.add_argument("--precision", choices=["bf16", "fp16", "fp32"], default="bf16")
    parser.add_argument("--json", help="also write the table here")
    args = parser.parse_args()
    device = choose(args.precision)
    name = torch.cuda.get_device_name() if device.torch.type == "cuda" else "CPU"
    measured = measured_peak(device) / 1e12
    print(f"{name}, {args.precision}, torch {torch.__version__}; matrix product {measured:.1f} TFLOP/s measured")
    table = []
    for size in args.sizes:
        for row in compare(size, args, device):
            table.append(row)
            print(
                f"{row.side:15}{row.size:6}{row.rows:4} × {args.length}{row.tokens_per_second:12,.0f} tokens/s  "
                f"{row.share_of_datasheet:6.1%} of the datasheet  {row.share_of_measured:6.1%} of the product  {row.peak_gb:.1f} GB",
                flush=True,
            )
    if args.json:
        Path(args.json).write_text(json.dumps({"device": name, "rows": [asdict(row) for row in table]}, indent=1))


if __name__ == "__main__":
    main()
