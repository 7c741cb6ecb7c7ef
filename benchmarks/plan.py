"""Hold the plan's formulas (`pretrain.planning.estimate`) against runs here: memory, and time from the share that another shape reached.

    python benchmarks/plan.py

Every shape trains for a few steps in a process of its own, float32 without dropout, whose resident memory after the imports is taken off
its peak. The first shape's share of a measured matrix product then predicts the others' seconds a step.
"""

import json
import resource
import subprocess
import sys
import time

import torch

from biomlm.model.compute import prepare
from biomlm.model.config import ComputeConfig, EncoderConfig, ModelConfig
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.flops import measured_peak, step_flops
from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.optimizer import Optimizer
from biomlm.model.packed import Packed
from biomlm.pretrain.planning.estimate import need

FP32 = Device(torch.device("cpu"), "fp32")
SHAPES = [(6, 512, 4), (4, 768, 8), (8, 512, 8), (2, 1024, 16)]  # layers, width, rows of 512 tokens
LENGTH, VOCABULARY, MASKED, STEPS = 512, 30_016, 0.15, 4


def encoder_of(layers: int, hidden: int) -> EncoderConfig:
    """Without dropout: a CPU's masks are wider than the plan's, which are a GPU's."""
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": hidden // 64}
    return ModelConfig(size="tiny", hidden_dropout=0.0, attention_dropout=0.0, **sizes).resolve(VOCABULARY, LENGTH, 1)


def resident_gb() -> float:
    """Peak so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(layers: int, hidden: int, rows: int) -> None:
    """Train and print what it took."""
    before = resident_gb()
    model = MaskedLM(encoder_of(layers, hidden)).train()
    prepare(model.encoder, FP32, ComputeConfig(attention="loop"))  # as a GPU's kernels, it keeps no probabilities
    optimizer = Optimizer(dict(model.named_parameters()), layers, OptimConfig(), 100)
    ids_t = torch.randint(4, VOCABULARY, (rows * LENGTH,))
    positions_m = torch.arange(int(MASKED * len(ids_t)))
    seconds = []
    for step in range(STEPS):
        start = time.perf_counter()
        hidden_mh = model.encoder(Packed(ids_t, (LENGTH,) * rows), positions_m)[-1]
        loss, _ = model.masked_loss(hidden_mh, ids_t[positions_m])
        loss.backward()
        del hidden_mh, loss
        optimizer.step(step)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"gb": resident_gb() - before, "seconds": min(seconds)}))


def main() -> None:
    if len(sys.argv) == 4:
        measure(*map(int, sys.argv[1:]))
        return
    share = 0.0
    for layers, hidden, rows in SHAPES:
        command = [sys.executable, __file__, str(layers), str(hidden), str(rows)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        encoder, tokens = encoder_of(layers, hidden), rows * LENGTH
        planned = need(encoder, tokens, 1, half=False, recompute=False)
        memory = planned.states[0] + planned.activations + planned.head
        flops = step_flops(encoder, [LENGTH] * rows, int(MASKED * tokens), int(MASKED * tokens))
        share = share or flops / found["seconds"] / measured_peak(FP32)
        seconds = flops / (share * measured_peak(FP32))
        print(
            f"{layers} × {hidden}, {tokens:,} tokens: memory {found['gb']:.2f} GB, planned {memory:.2f} ({memory / found['gb'] - 1:+.0%}); "
            f"step {found['seconds']:.2f} s, planned {seconds:.2f} ({seconds / found['seconds'] - 1:+.0%}) at {share:.0%} of the product",
            flush=True,
        )


if __name__ == "__main__":
    main()
