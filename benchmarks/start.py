"""How long `biomlm pretrain` takes from its start to its first step, on shards of 100 million tokens made by repeating given ones.

    python benchmarks/start.py SHARDS [--tokens 100_000_000 --size base -- --any.option of pretrain]

Every number of tokens is run once to warm the disk's cache, then `--repeats` times; the median counts. Processor time beside wall time
says how much of it was waiting for other processes on a busy machine.
"""

import argparse
import gzip
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from biomlm.core.manifest import Manifest, read_manifest
from biomlm.pretrain.data.dataset import Shards
from biomlm.tokenizer.shards import STAGE, ShardWriter


def repeat(source: Path, out: Path, tokens: int) -> Shards:
    """Write shards whose training split is that of `source` as often as gives so many tokens."""
    reader = Shards([source], "train").readers[0]
    docs = gzip.decompress((source / "train.docs.jsonl.gz").read_bytes())
    with ShardWriter(out / "train", reader.dtype) as writer:
        for _ in range(-(-tokens // len(reader.tokens))):
            writer.append(np.asarray(reader.tokens), reader.sizes, reader.doc_index[:-1], reader.segments[:-1], docs)
    for file in source.glob("valid.*"):
        shutil.copy(file, out)
    shutil.copytree(source / "tokenizer", out / "tokenizer")
    made, files = read_manifest(source, STAGE), [path for path in out.iterdir() if path.is_file()]
    Manifest(STAGE, made.config, made.config_hash, made.inputs).finish(out, files, made.counts)
    return Shards([out], "train")


def first_step(shards: Path, run: Path, size: str, more: list[str]) -> tuple[float, float]:
    """Wall and processor seconds from the process's start until its first record."""
    options = ["--steps", "1000", "--log_every", "1", "--model.size", size, "--batch.tokens", "512", *more]
    command = [sys.executable, "-m", "biomlm.pretrain", "--shards", str(shards), "--out", str(run), *options]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = run / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.02)
    seconds = time.monotonic() - start
    process.kill()
    _, said = process.communicate()
    if not metrics.exists():
        sys.exit(said)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1_000_000, 100_000_000])
    parser.add_argument("--size", default="base")
    parser.add_argument("--repeats", type=int, default=3)
    args, more = parser.parse_known_args()
    for tokens in args.tokens:
        with tempfile.TemporaryDirectory() as folder:
            made, runs = Path(folder) / "shards", []
            made.mkdir()
            reader = repeat(args.shards, made, tokens)
            for number in range(args.repeats + 1):
                runs.append(first_step(made, Path(folder) / f"run{number}", args.size, more))
            wall, busy = (statistics.median(column) for column in zip(*runs[1:], strict=True))
            documents = len(reader.doc_index) - 1
            counts = f"{len(reader.tokens):12,} tokens, {documents:9,} documents"
            print(f"{counts}: first step after {wall:5.1f} s, {busy:5.1f} s of processor time")


if __name__ == "__main__":
    main()
