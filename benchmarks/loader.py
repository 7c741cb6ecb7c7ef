"""Whether the training loop ever waits for its batches: how fast they are made, and how long a loop waits that needs them at a GPU's pace.

    python benchmarks/loader.py SHARDS [--tokens 65536 --max_length 512 --pace 750_000]

The pace is that of a step that takes tokens / pace seconds without using the CPU (a sleep), as on a GPU; 750,000 tokens a second are the
125M model on an H100 at 45% MFU. Three loops take turns: batches made in the loop itself, by a thread, and by a process that sends them
back. A fourth is the thread beside a loop that keeps the interpreter busy, as launching kernels does: Python code for the whole
of each step. Processor time is of this process; on a busy machine only its ratios mean anything.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from biomlm.pretrain.data.batches import Batch, Batches
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.objectives.config import MlmConfig
from biomlm.training.prefetch import AHEAD, Prefetcher

Take = Callable[[], list[Batch]]
own: list[Batches] = []  # of a process that makes them


def _begin(*args: object) -> None:
    own.append(_batches(*args))  # type: ignore[arg-type]


def _make(step: int) -> list[Batch]:
    return own[0].step(step)


def _batches(shards: str, tokens: int, max_length: int) -> Batches:
    return Batches(Shards([shards], "train"), MlmConfig(), BatchConfig(tokens, 1, max_length), seed=0)


@contextmanager
def none(batches: Batches, first: int, steps: int, _: ProcessPoolExecutor) -> Iterator[Take]:
    numbers = iter(range(first, first + steps))
    yield lambda: batches.step(next(numbers))


@contextmanager
def thread(batches: Batches, first: int, steps: int, _: ProcessPoolExecutor) -> Iterator[Take]:
    with Prefetcher(batches.step, first, first + steps) as prefetcher:
        yield prefetcher.__next__


@contextmanager
def process(_: Batches, first: int, steps: int, pool: ProcessPoolExecutor) -> Iterator[Take]:
    waiting = [pool.submit(_make, first + i) for i in range(AHEAD)]
    numbers = iter(range(first + AHEAD, first + steps + AHEAD))

    def take() -> list[Batch]:
        waiting.append(pool.submit(_make, next(numbers)))
        return waiting.pop(0).result()

    yield take


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def launch(seconds: float) -> None:
    """Python code that holds the interpreter as long as others let it."""
    end, n = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        n += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--pace", type=float, default=750_000, help="tokens a second that the loop could use")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    shape = (args.shards, args.tokens, args.max_length)
    batches, pause = _batches(*shape), args.tokens / args.pace
    ways = {
        "in the loop": (none, sleep),
        "thread": (thread, sleep),
        "process": (process, sleep),
        "thread, busy": (thread, launch),
    }
    waited: dict[str, list[float]] = {name: [] for name in ways}
    busy: dict[str, list[float]] = {name: [] for name in ways}
    with ProcessPoolExecutor(1, get_context("spawn"), _begin, shape) as pool:
        pool.submit(_make, 0).result()
        batches.step(0)
        for repeat in range(args.repeats):
            for name, (way, pass_time) in ways.items():
                start, spent, wait = time.perf_counter(), time.process_time(), 0.0
                with way(batches, repeat * args.steps, args.steps, pool) as take:
                    take()  # the first one is always waited for
                    for _ in range(args.steps - 1):
                        pass_time(pause)
                        before = time.perf_counter()
                        take()
                        wait += time.perf_counter() - before
                waited[name].append(wait / (time.perf_counter() - start))
                busy[name].append((time.process_time() - spent) / args.steps)
    rate = args.tokens / statistics.median(busy["in the loop"])
    print(
        f"{args.tokens:,} tokens of up to {args.max_length} a step of {1e3 * pause:.0f} ms: made at {rate:,.0f} tokens a second of one core"
    )
    for name in ways:
        share, cost = statistics.median(waited[name]), 1e3 * statistics.median(busy[name])
        print(f"{name:14} waited {share:6.2%} of the time, {cost:6.1f} ms of this process's processor time a step")


if __name__ == "__main__":
    main()
