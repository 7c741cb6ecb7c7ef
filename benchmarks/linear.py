"""A training step's time grows linearly with its tokens: seconds for steps of 2 to 16 thousand tokens, and for longer and longer sequences.

    python benchmarks/linear.py [--layers 6 --hidden 256]        # two minutes on one core

First RoBERTa's shape on sequences of 512 tokens, with a line fitted: seconds = start + slope × tokens. Then ModernBERT's shape, 8,192
tokens a step in sequences of 128 to 8,192: two layers of three attend locally, whose cost does not depend on the length; the third's
products grow with it, and "products" says by how much a step's should. Random ids, 15% predicted, dropout 0.1 in RoBERTa's shape and
none in ModernBERT's, as published. Seconds are of processor time (of a GPU, of the clock), the median of repeats, the sizes in turn.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import plain  # noqa: F401
import torch

from biomlm.model import device
from biomlm.model.config import ModelConfig, Shape
from biomlm.model.encoder import MaskedLM
from biomlm.model.flops import step_flops
from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.optimizer import Optimizer
from biomlm.model.packed import Packed

MASK_RATE = 0.15
WHERE = device.choose("auto")
ON_GPU = WHERE.torch.type == "cuda"
DROPOUT: dict[Shape, float] = {"roberta": 0.1, "modernbert": 0.0}

Step = Callable[[Sequence[int]], None]


def stepper(shape: Shape, args: argparse.Namespace, longest: int) -> tuple[Step, Callable[[Sequence[int]], float]]:
    """A training step over sequences of given lengths, and the products (FLOPs) that it must do."""
    rate = DROPOUT[shape]
    model_config = ModelConfig(
        shape,
        num_hidden_layers=args.layers,
        hidden_size=args.hidden,
        num_attention_heads=max(1, args.hidden // 64),
        hidden_dropout=rate,
        attention_dropout=rate,
    )
    config = model_config.resolve(args.vocab_size, longest, 1)
    model = MaskedLM(config).to(WHERE.torch).train()
    optimizer = Optimizer(dict(model.named_parameters()), args.layers, OptimConfig(lr=1e-4), 10_000)

    def step(lengths: Sequence[int]) -> None:
        ids_t = torch.randint(4, args.vocab_size, (sum(lengths),))
        packed = Packed(ids_t, tuple(lengths)).to(WHERE.torch)
        positions_m = torch.arange(0, len(ids_t), round(1 / MASK_RATE)).to(WHERE.torch)
        with WHERE.autocast():
            loss, _ = model.masked_loss(model.encoder(packed, positions_m)[-1], packed.input_ids_t[positions_m])
        (loss / len(positions_m)).backward()
        optimizer.step(0)

    def flops(lengths: Sequence[int]) -> float:
        predicted = round(MASK_RATE * sum(lengths))
        return step_flops(config, lengths, predicted, predicted)

    return step, flops


def seconds(step: Step, cases: Sequence[Sequence[int]], repeats: int) -> list[float]:
    """Of each case, the median of its repeats; the first round warms up."""
    found: list[list[float]] = [[] for _ in cases]
    clock = time.perf_counter if ON_GPU else time.process_time
    for _ in range(repeats + 1):
        for times, lengths in zip(found, cases, strict=True):
            start = clock()
            step(lengths)
            if ON_GPU:
                torch.cuda.synchronize()
            times.append(clock() - start)
    return [statistics.median(times[1:]) for times in found]


def by_tokens(args: argparse.Namespace) -> None:
    """More and more sequences of one length."""
    step, _ = stepper("roberta", args, args.length)
    cases = [[args.length] * (tokens // args.length) for tokens in args.tokens]
    found = seconds(step, cases, args.repeats)
    thousands = np.array([sum(lengths) / 1000 for lengths in cases])
    slope, start = np.polyfit(thousands, found, 1)
    off = np.abs(start + slope * thousands - found).max() / max(found)
    print(
        f"\nsequences of {args.length}: {start:.3f} s + {slope:.4f} s a thousand tokens, at most {off:.1%} off the line"
    )
    for tokens, taken in zip(thousands, found, strict=True):
        print(f"{tokens:8.1f} thousand tokens {taken:8.3f} s {taken / tokens:8.4f} s a thousand")


def by_length(args: argparse.Namespace) -> None:
    """The same tokens in longer and longer sequences, attending locally and globally."""
    step, flops = stepper("modernbert", args, max(args.lengths))
    total = max(args.lengths)
    cases = [[length] * (total // length) for length in args.lengths]
    found = seconds(step, cases, args.repeats)
    print(f"\nlocal and global layers, {total:,} tokens a step")
    for lengths, taken in zip(cases, found, strict=True):
        products, times = flops(lengths) / flops(cases[0]), taken / found[0]
        print(
            f"sequences of {lengths[0]:6,} {taken:8.3f} s {1000 * taken / total:8.4f} s a thousand   {times:5.2f} times, "
            f"products {products:5.2f} times"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocab_size", type=int, default=8000)
    parser.add_argument("--length", type=int, default=512, help="of RoBERTa's sequences")
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 4096, 8192, 16384])
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 8192])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    threads = torch.get_num_threads()
    print(
        f"{args.layers} × {args.hidden}, {args.vocab_size} pieces, {WHERE.torch} {WHERE.precision}, {threads} threads"
    )
    by_tokens(args)
    by_length(args)


if __name__ == "__main__":
    main()
