"""How long saving holds a training loop up: an asynchronous save of a base model with its moments, against one that is waited for.

    python benchmarks/checkpoint.py [--size base --saves 4 --every 300]

Stall is the time that `Saver.save` takes, plus what matrix products beside the writing take longer than without it. Its share of
training time is (stall of one save) / `--every` seconds. Beside wall time stands this thread's processor time, which a busy machine
does not lengthen.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from biomlm.core.checkpoint import Checkpoint
from biomlm.model.config import ModelConfig
from biomlm.model.encoder import MaskedLM, parameter_count
from biomlm.training.saver import Saver


def step(a: torch.Tensor, b: torch.Tensor) -> float:
    """Wall seconds of a stretch of arithmetic."""
    start = time.perf_counter()
    for _ in range(4):
        a @ b
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base")
    parser.add_argument("--vocab", type=int, default=50_265)
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--every", type=float, default=300.0, help="seconds of training between saves")
    args = parser.parse_args()

    model = MaskedLM(ModelConfig(size=args.size).resolve(args.vocab, 512, 1))
    named = dict(model.named_parameters())
    moments = {f"{m}.{n}": torch.rand_like(p) for n, p in named.items() for m in ("exp_avg", "exp_avg_sq")}
    groups = {"model": model.state_dict(), "objective": {}, "optimizer": moments}
    size = sum(t.numel() * t.element_size() for group in groups.values() for t in group.values())
    print(
        f"{args.size}: {parameter_count(model):,} parameters, {size / 1e9:.2f} GB a checkpoint, {torch.get_num_threads()} threads"
    )
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        held, cpus, slower, waited = [], [], [], []
        with Saver(Path(folder), 1, 0) as saver:
            for number in range(args.saves + 1):
                quiet = statistics.median(step(a, b) for _ in range(20))
                start, cpu = time.perf_counter(), time.thread_time()
                saver.save(Checkpoint(number, groups, {}))
                stall, cpu, beside = time.perf_counter() - start, time.thread_time() - cpu, []
                while saver.thread is not None and saver.thread.is_alive():
                    beside.append(step(a, b))
                writing = time.perf_counter() - start - stall
                if number:  # the first one also takes the memory for the copies
                    held.append(stall)
                    cpus.append(cpu)
                    slower.append(max(sum(beside) - len(beside) * quiet, 0.0))
                what = "first, with fresh memory" if not number else f"{number}"
                print(
                    f"save {what}: held up {stall:.2f} s ({cpu:.2f} of processor time), written beside the loop in {writing:.1f} s"
                )
            for number in range(args.saves):
                start = time.perf_counter()
                saver.save(Checkpoint(100 + number, groups, {}), wait=True)
                waited.append(time.perf_counter() - start)
    stall, cpu, slow, sync = (statistics.median(values) for values in (held, cpus, slower, waited))
    print(
        f"asynchronous: {stall:.2f} s held up + {slow:.2f} s slower steps = {(stall + slow) / args.every:.2%} of {args.every:.0f} s"
    )
    print(f"of the stall, processor time of the copy: {cpu:.2f} s = {cpu / args.every:.2%}")
    print(f"waited for:   {sync:.2f} s = {sync / args.every:.2%}")


if __name__ == "__main__":
    main()
