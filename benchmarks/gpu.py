"""Ten minutes on one GPU: whether every kernel is right, how fast steps are beside Hugging Face's, and where their time goes.

    python benchmarks/gpu.py --minutes 10 --out gpu.jsonl      # in a plain image: needs torch, transformers, triton, safetensors, rich
    python benchmarks/gpu.py --sizes tiny --tokens 512 --length 64 --vocab_size 500 --seconds 0.1 --precision fp32   # for a look, on a CPU
    python benchmarks/gpu.py --parts parity loop

Every part runs by itself: one that fails leaves the others' lines, and each line is written as soon as it is there. With `--minutes` the
parts run in this order as long as time is left. Utilisation counts the products that a step must do (`biomlm.model.flops`: the head at
masked positions only, nothing twice), over the datasheet's rate and over that of a matrix product measured here. Random ids stand for
text; lengths are new in each step.
"""

import argparse
import json
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import gpu_parity
import gpu_runs
import gpu_steps
import plain  # noqa: F401
import torch
from gpu_common import Line, Settings

from biomlm.model.device import choose
from biomlm.model.flops import measured_peak, peak

Part = Callable[[Settings], Iterator[Line]]
PARTS: dict[str, Part] = {  # by worth, should time run out
    "attention": gpu_parity.parity_attention,
    "dropout": gpu_parity.parity_dropout,
    "loss": gpu_parity.parity_loss,
    "sync": gpu_parity.reads_nothing,
    "loop": gpu_steps.loop,
    "profile": gpu_runs.profile,
    "transformers": gpu_steps.hugging_face,
    "fp16": gpu_steps.half_precision,
    "resume": gpu_runs.killed_and_resumed,
    "distillation": gpu_steps.distillation,
    "optimisers": gpu_steps.optimisers,
    "recompute": gpu_steps.recomputed,
}


def run_part(name: str, settings: Settings) -> Iterator[Line]:
    """A part's lines, the last of which says what ended it."""
    try:
        yield from PARTS[name](settings)
    except Exception as error:  # whatever it is: minutes on a GPU are few
        traceback.print_exc()
        yield Line(name, "ended", problem=f"{type(error).__name__}: {str(error)[:300]}")


def lines(names: list[str], settings: Settings, minutes: float) -> Iterator[Line]:
    """The lines of all parts that there is time for."""
    on_gpu = settings.on_gpu
    yield Line(
        "device",
        torch.cuda.get_device_name() if on_gpu else "CPU",
        {
            "torch": torch.__version__,
            "precision": settings.device.precision,
            "datasheet TFLOP/s": peak(settings.device) / 1e12,
            "product TFLOP/s": measured_peak(settings.device) / 1e12,
        },
    )
    end = time.monotonic() + 60 * minutes
    for name in names:
        start = time.monotonic()
        if start > end:
            yield Line(name, "left out", {"minutes were": minutes})
            continue
        yield from run_part(name, settings)
        yield Line(name, "took", {"seconds": time.monotonic() - start})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--sizes", nargs="+", default=["base", "large"])
    parser.add_argument("--tokens", type=int, default=32_768, help="of a micro-batch")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--vocab_size", type=int, default=50_048)
    parser.add_argument("--seconds", type=float, default=5, help="for each timing")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--precision", choices=["auto", "bf16", "fp16", "fp32"], default="auto")
    parser.add_argument("--out", help="write each line here too, as JSON")
    args = parser.parse_args()
    numbers = {name: getattr(args, name) for name in ("sizes", "tokens", "length", "vocab_size", "dropout", "seconds")}
    failed = 0
    if args.out:
        Path(args.out).write_text("")
    for line in lines(args.parts, Settings(choose(args.precision), **numbers), args.minutes):
        print(line, flush=True)
        failed += bool(line.problem)
        if args.out:  # the machine may be gone before the next
            with Path(args.out).open("a") as file:
                file.write(json.dumps(asdict(line)) + "\n")
    if failed:
        raise SystemExit(f"{failed} lines tell of a failure")


if __name__ == "__main__":
    main()
