"""Training steps on one GPU: model FLOPs utilisation beside Hugging Face's, at base and large size with 512 tokens, bf16.

    python benchmarks/gpu.py --json table.json       # under eight minutes on an H100; needs torch, transformers, triton and nothing else
    python benchmarks/gpu.py --sizes tiny --rows 4 --length 64 --vocab_size 500 --seconds 1   # for a look, on a CPU

Utilisation counts the products that a step must do (`biomlm.model.flops`: the head at masked positions only, nothing twice), over
the datasheet's rate and over that of a matrix product measured here. Random ids stand for text; every row is full, but for the sides
named "mixed": the same tokens in sequences of all lengths, which transformers pads. Each side runs by itself, since two models may not
fit, at the row counts from `--rows` downwards the first that fits.
"""

import argparse
import json
import random
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import plain  # noqa: F401
import torch
from peers import roberta
from torch import nn

from biomlm.model.compute import prepare
from biomlm.model.config import ComputeConfig, EncoderConfig, ModelConfig
from biomlm.model.device import Device, choose
from biomlm.model.encoder import MaskedLM
from biomlm.model.flops import measured_peak, peak, step_flops
from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.optimizer import Optimizer
from biomlm.model.packed import Packed

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


def lengths_of(rows: int, length: int, *, mixed: bool) -> list[int]:
    """Of the sequences of one batch; mixed, from a sixteenth of `length` to all of it, with the same tokens in all."""
    if not mixed:
        return [length] * rows
    draws, left, found = random.Random(0), rows * length, list[int]()
    while left:
        found.append(min(draws.randint(max(1, length // 16), length), left))
        left -= found[-1]
    return found


def ours(config: EncoderConfig, device: Device, lengths: Sequence[int], *, compiled: bool) -> Step:
    """Our step on a random batch."""
    model = MaskedLM(config).to(device.torch).train()
    prepare(model.encoder, device, ComputeConfig(compile=compiled))
    optimizer = Optimizer(dict(model.named_parameters()), config.num_hidden_layers, OptimConfig(lr=1e-4), 100_000)
    ids_t = torch.randint(4, config.vocab_size, (sum(lengths),))
    positions_m = torch.randperm(len(ids_t))[: int(MASK_RATE * len(ids_t))].sort().values.to(device.torch)
    packed = Packed(ids_t, tuple(lengths)).to(device.torch)
    labels_m = packed.input_ids_t[positions_m]

    def step() -> None:
        with device.autocast():
            loss, _ = model.masked_loss(model.encoder(packed, positions_m)[-1], labels_m)
        (loss / len(labels_m)).backward()
        optimizer.step(0)

    return step


def theirs(config: EncoderConfig, device: Device, lengths: Sequence[int]) -> Step:
    """Hugging Face's class, fused AdamW, padding, logits at every position."""
    model = roberta(config).to(device.torch).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids_bl = torch.randint(4, config.vocab_size, (len(lengths), max(lengths)), device=device.torch)
    mask_bl = torch.arange(max(lengths), device=device.torch) < torch.tensor(lengths, device=device.torch)[:, None]
    ids_bl = ids_bl.where(mask_bl, config.pad_token_id)
    labels_bl = ids_bl.where(mask_bl & (torch.rand(ids_bl.shape, device=device.torch) < MASK_RATE), -100)

    def step() -> None:
        with device.autocast():
            loss = model(input_ids=ids_bl, attention_mask=mask_bl.long(), labels=labels_bl).loss
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
    """A step that has run three times, at the largest number of rows that fits; out of memory halves them."""
    while rows:
        step: Step | None = None
        try:
            step = make(rows)
            timed(step, 3, device)
        except torch.OutOfMemoryError:
            rows //= 2
        else:
            return step, rows
        del step
        torch.cuda.empty_cache()  # here, where the error no longer holds what did not fit
    raise MemoryError("not even one row fits")


@dataclass
class Failure:
    """A side that ended with an error, which leaves the others' lines."""

    side: str
    size: str
    problem: str


def compare(size: str, args: argparse.Namespace, device: Device) -> Iterator[Row | Failure]:
    """All sides at one size, one after the other: two models and their moments may not fit together."""
    shape = ModelConfig(size=size, hidden_dropout=args.dropout, attention_dropout=args.dropout)
    config, on_gpu = shape.resolve(args.vocab_size, args.length, 1), device.torch.type == "cuda"
    sides: dict[str, Callable[[Sequence[int]], Step]] = {
        "biomlm": lambda lengths: ours(config, device, lengths, compiled=False),
        "transformers": lambda lengths: theirs(config, device, lengths),
    }
    if on_gpu:
        sides["biomlm compiled"] = lambda lengths: ours(config, device, lengths, compiled=True)
    for mixed in (False, True):
        for side, make in sides.items():
            try:
                row = measure(side, size, make, config, args, device, mixed=mixed)
            except Exception as error:  # whatever it is: minutes on a GPU are few
                traceback.print_exc()
                yield Failure(f"{side}, mixed" if mixed else side, size, f"{type(error).__name__}: {error}")
            else:
                print(shown(row, args.length), flush=True)
                yield row


def measure(
    side: str,
    size: str,
    make: Callable[[Sequence[int]], Step],
    config: EncoderConfig,
    args: argparse.Namespace,
    device: Device,
    *,
    mixed: bool,
) -> Row:
    """One side's line."""
    on_gpu = device.torch.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step, rows = fitting(lambda rows: make(lengths_of(rows, args.length, mixed=mixed)), args.rows, device)
    seconds, end = list[float](), time.monotonic() + args.seconds
    while time.monotonic() < end or len(seconds) < 3:
        seconds.append(timed(step, BLOCK, device))
    used = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else float("nan")
    lengths = lengths_of(rows, args.length, mixed=mixed)
    tokens = sum(lengths)
    predicted = int(MASK_RATE * tokens)
    flops = step_flops(config, lengths, predicted, predicted) / statistics.median(seconds)
    speed = tokens / statistics.median(seconds)
    name = f"{side}, mixed" if mixed else side
    return Row(name, size, rows, speed, flops / peak(device), flops / measured_peak(device), used)


def shown(row: Row, length: int) -> str:
    """A line of the table."""
    return (
        f"{row.side:22}{row.size:6}{row.rows:4} × {length}{row.tokens_per_second:12,.0f} tokens/s  "
        f"{row.share_of_datasheet:6.1%} of the datasheet  {row.share_of_measured:6.1%} of the product  {row.peak_gb:.1f} GB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["base", "large"])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--vocab_size", type=int, default=50_048)
    parser.add_argument("--seconds", type=float, default=15, help="for each side and size")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--precision", choices=["bf16", "fp16", "fp32"], default="bf16")
    parser.add_argument("--json", help="also write the table here")
    args = parser.parse_args()
    device = choose(args.precision)
    name = torch.cuda.get_device_name() if device.torch.type == "cuda" else "CPU"
    measured = measured_peak(device) / 1e12
    print(f"{name}, {args.precision}, torch {torch.__version__}; matrix product {measured:.1f} TFLOP/s measured")
    table: dict[str, object] = {"device": name, "rows": (rows := list[object]()), "failed": (failed := list[object]())}
    for size in args.sizes:
        for line in compare(size, args, device):
            (failed if isinstance(line, Failure) else rows).append(asdict(line))
            if args.json:  # after every line: the machine may be gone before the next
                Path(args.json).write_text(json.dumps(table, indent=1))
    if failed:
        raise SystemExit(f"{len(failed)} sides failed")


if __name__ == "__main__":
    main()
