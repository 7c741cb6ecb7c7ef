"""A pretraining step of ours against Hugging Face's Trainer and fairseq-train: real tokens a second and peak memory, in one run.

    python benchmarks/pretrain.py SHARDS [--size base --precision bf16 --text full]
    python benchmarks/pretrain.py SHARDS --table --repeats 3 --warm 1   # 12 and 6 layers, bf16 and fp32, blocks, abstracts, notes
    python benchmarks/pretrain.py SHARDS --precision fp32 --without transformers   # where memory does not hold all three

Each side is a process of its own with its own memory, and they take turns step by step, so that a change of the machine's load
meets all. Hugging Face's side is what `run_mlm.py` builds: `Trainer`, `DataCollatorForLanguageModeling`, `RobertaForMaskedLM`; with
`--text full` blocks of 512 tokens, its default; else one document a row (`--line_by_line`), padded to the batch's longest. Ours masks,
packs and steps inside the same clock; theirs collates outside it. fairseq-train takes part in fp32 (it has no bf16 on a CPU) where its
environment is found (docs/fairseq.md), on the same rows in its own order: it batches those of like length. Needs `pip install accelerate`.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import torch
from sides import SIDES, Case, Result, fairseq_home

from biomlm.model import device
from biomlm.model.config import SIZES
from biomlm.model.flops import measured_peak

FULL_TABLE = [
    (size, layers, precision, text)
    for size, layers in (("base", 12), ("base", 6))
    for precision in ("bf16", "fp32")
    for text in ("full", "pubmed", "notes")
]


class Side:
    """One side's process, halted between steps."""

    def __init__(self, name: str, case: Case):
        self.name, self.results = name, list[Result]()
        command = [sys.executable, str(Path(__file__).with_name("sides.py")), name, json.dumps(vars(case))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self) -> Result:
        """Let it do one optimiser step."""
        to, back = self.process.stdin, self.process.stdout
        assert to is not None
        assert back is not None
        print("step", file=to, flush=True)
        self.results.append(self._answer(back))
        return self.results[-1]

    def _answer(self, back: IO[str]) -> Result:
        for line in back:
            if line.startswith("RESULT "):
                return Result(**json.loads(line.removeprefix("RESULT ")))
        sys.exit(f"{self.name} ended with {self.process.wait()}")

    def end(self) -> None:
        """Let it go."""
        self.process.kill()
        self.process.wait()


def compare(case: Case, names: Sequence[str], repeats: int, warm: int) -> dict[str, list[Result]]:
    """Side → what its steps took, behind the first ones."""
    able = [name for name in names if name != "fairseq" or (fairseq_home() and case.precision == "fp32")]
    sides = [Side(name, case) for name in able]
    for _ in range(warm + repeats):
        for side in sides:
            side.step()
    for side in sides:
        side.end()
    return {side.name: side.results[warm:] for side in sides}


def report(case: Case, names: Sequence[str], repeats: int, warm: int) -> None:
    """Run one case and print its lines."""
    found = compare(case, names, repeats, warm)
    speeds = {name: statistics.median(r.tokens / r.seconds for r in results) for name, results in found.items()}
    peaks = {name: max(r.peak_gb for r in results) for name, results in found.items()}
    a_token = sum(r.flops for r in found["biomlm"]) / sum(r.tokens for r in found["biomlm"])
    rate = measured_peak(device.choose("bf16" if case.precision == "bf16" else "fp32"))
    print(
        f"{case.layers} × {case.hidden}, vocabulary {case.vocab_size}, {case.precision}, dropout {case.dropout}, {case.text}, "
        f"{case.rows} rows a step, {torch.get_num_threads()} threads; median of {repeats} steps in turn"
    )
    for name, speed in speeds.items():
        share = a_token * speed / rate
        print(
            f"  {name:14}{speed:10,.0f} real tokens/s   {peaks[name]:5.2f} GB   {share:5.1%} of a measured matrix product"
        )
    for name in list(speeds)[1:]:
        speed, memory = speeds["biomlm"] / speeds[name], peaks["biomlm"] / peaks[name]
        print(f"  against {name}: {speed:.2f} times the speed, {memory:.2f} of the memory", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--size", choices=list(SIZES), default="base")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--vocab_size", type=int, default=50_048)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--text", choices=["full", "pubmed", "pmc", "notes"], default="full")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warm", type=int, default=2, help="steps that do not count")
    parser.add_argument("--without", choices=[name for name in SIDES if name != "biomlm"], nargs="*", default=[])
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    layers, hidden, heads = SIZES[args.size]
    cases = FULL_TABLE if args.table else [(args.size, args.layers or layers, args.precision, args.text)]
    for _, depth, precision, text in cases:
        case = Case(args.shards, depth, hidden, heads, args.vocab_size, precision, text, args.rows, args.dropout)
        report(case, [name for name in SIDES if name not in args.without], args.repeats, args.warm)


if __name__ == "__main__":
    main()
