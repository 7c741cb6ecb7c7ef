"""Losses of all engines for the same batches, and what any number of `kill -9`s does to a run.

    python benchmarks/engines.py SHARDS [--steps 50 --kills 50 --only torch-1,torch-2,…]

Every engine trains the same small model for the same steps; what is printed is the largest relative difference of any step's loss from
one process of torch's, and whether batches and masks are the same. Then one run is killed at random moments, every third time while a
checkpoint is being written, until it ends; its weights must equal those of the run that was left alone, bit for bit.
"""

import argparse
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from biomlm.core import checkpoint
from biomlm.core.metrics import read_metrics

SMALL = "--model.num_hidden_layers 2 --model.hidden_size 64 --model.num_attention_heads 2 --batch.tokens 512 --batch.max_length 64"
WORDS = f"{SMALL} --batch.accumulation 3 --optim.lr 1e-3 --precision fp32 --seed 1 --log_every 1 --save_every 5 --eval_tokens 512".split()
ENGINES = {
    "torch-1": (1, []),
    "torch-2": (2, []),
    "torch-3": (3, []),
    "fsdp-2": (2, ["--engine", "fsdp"]),
    **{f"zero{n}-2": (2, ["--engine", "deepspeed", "--deepspeed.stage", str(n)]) for n in range(4)},
}


def start(size: int, words: list[str]) -> list[subprocess.Popen[bytes]]:
    """The processes of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    command = [sys.executable, "-m", "biomlm.pretrain", *words]
    return [
        subprocess.Popen(
            command,
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(size)
    ]


def figures(run: Path, name: str) -> list[object]:
    return [record[name] for record in read_metrics(run) if record["split"] == "train" and name in record]


def compare(shards: str, steps: int, only: list[str], folder: Path) -> None:
    first = folder / "torch-1"
    for name in ["torch-1", *(n for n in only if n != "torch-1")]:
        size, more = ENGINES[name]
        run = folder / name
        words = ["--shards", shards, "--out", str(run), "--steps", str(steps), *WORDS, *more]
        if any(process.wait() for process in start(size, words)):
            print(f"{name:10} did not run (not installed?)")
            continue
        pairs = zip(figures(run, "loss"), figures(first, "loss"), strict=True)
        worst = max(abs(a - b) / b for a, b in pairs)  # type: ignore[operator]
        same = figures(run, "batches") == figures(first, "batches")
        print(f"{name:10} largest difference of a loss {worst:.1e}   same batches and masks: {same}", flush=True)


def kill(shards: str, steps: int, kills: int, folder: Path) -> None:
    run, draw, done = folder / "killed", random.Random(0), 0
    words = ["--shards", shards, "--out", str(run), "--steps", str(steps), *WORDS]
    while True:
        (process,) = start(1, words)
        before, deadline = len(read_metrics(run)), time.monotonic() + 120
        further = before + draw.randint(1, 8)
        pause = draw.uniform(0, 0.2)
        while process.poll() is None and time.monotonic() < deadline:
            saving = done % 3 == 0 and any((run / checkpoint.FOLDER).glob(".*.tmp"))
            if done < kills and (saving or len(read_metrics(run)) >= further):
                time.sleep(0 if saving else pause)
                break
            time.sleep(0.001)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        done += 1
    last = f"{checkpoint.FOLDER}/step_{steps}/"
    names = ("model.safetensors", "optimizer.safetensors")
    same = all((run / last / name).read_bytes() == (folder / "torch-1" / last / name).read_bytes() for name in names)
    once = [r["step"] for r in read_metrics(run) if r["split"] == "train"] == list(range(1, steps + 1))
    left = [path.name for path in run.rglob(".*.*") if path.suffix in (".tmp", ".old")]
    print(
        f"killed {done} times: weights and moments bit-identical: {same}; every batch once: {once}; files left over: {len(left)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--only", default=",".join(ENGINES))
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="engines-"))
    try:
        compare(args.shards, args.steps, args.only.split(","), folder)
        kill(args.shards, args.steps, args.kills, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
