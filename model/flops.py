"""Model FLOPs utilisation: what a step must compute, over what the device could have computed in that time.

Counted are matrix products only, a multiplication and an addition as two, the backward pass as twice the forward pass, nothing for
recomputation (Chowdhery et al. 2022, "PaLM", arXiv 2204.02311, appendix B), the head and what follows the last layer's attention at
predicted positions only, and attention as far as each token sees.
"""

import re
import time
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from biomlm.model.config import EncoderConfig
from biomlm.model.device import Device
from biomlm.model.kernels.linear import Linear

# Dense tensor-core rates of NVIDIA's datasheets in TFLOP/s (SXM versions where there are several) for bf16 and fp16, and for fp32 as
# torch computes it by default, without TF32. The first name found in the device's counts.
PEAKS: dict[str, tuple[float, float]] = {
    "H200": (989.4, 66.9),
    "H100 PCIe": (756.0, 51.2),
    "H100 NVL": (835.5, 60.0),
    "H100": (989.4, 66.9),
    "A100": (312.0, 19.5),
    "A40": (149.7, 37.4),
    "A10": (125.0, 31.2),
    "L40S": (362.1, 91.6),
    "L4": (121.0, 30.3),
    "V100": (125.0, 15.7),
    "T4": (65.0, 8.1),
}
# Of the measured matrix product: large enough for full speed, on two cores in fp32 0.2 s, on a GPU 1 ms beside 0.03 to start it.
SIZE = {"cpu": 2048, "cuda": 8192}
REPEATS = {"cpu": 3, "cuda": 30}


def step_flops(config: EncoderConfig, lengths: Sequence[int], predicted: int, last: int | None = None) -> float:
    """Count the floating-point operations of one forward and backward pass over packed sequences.

    Args:
        config: The encoder.
        lengths: Tokens of each sequence.
        predicted: Positions that the head runs on.
        last: Rows that the last layer is wanted at; None for all.
    """
    h, width = config.hidden_size, config.intermediate_size
    lengths_b = np.array(lengths, dtype=np.float64)
    up = 2 if config.features.gated else 1  # gated: the first matrix has twice the rows
    per_token = 2 * h * (3 * h + h + (up + 1) * width)
    total = config.num_hidden_layers * per_token * float(lengths_b.sum())
    if last is not None:  # it needs the queries, keys and values of all
        total -= (per_token - 2 * h * 3 * h) * (float(lengths_b.sum()) - last)
    for layer in range(config.num_hidden_layers):
        seen_b = np.minimum(lengths_b, 2 * config.local_window + 1) if config.is_local(layer) else lengths_b
        total += 4 * h * float((lengths_b * seen_b).sum())
    head = 2 * h * (h + config.vocab_size)
    return 3 * (total + head * predicted)


def peak(device: Device) -> float:
    """Return the peak in floating-point operations a second: of a known GPU by its datasheet, else measured with a matrix product."""
    if device.torch.type == "cuda":
        name = torch.cuda.get_device_name(device.torch)
        for gpu, (half, single) in PEAKS.items():
            if re.search(rf"\b{gpu}\b", name):
                return (single if device.precision == "fp32" else half) * 1e12
    return measured_peak(device)


@cache
def measured_peak(device: Device) -> float:
    """Measure the floating-point operations a second of a large matrix product in the device's precision, the best of a few."""
    slow = device.torch.type == "cpu" and device.precision == "fp16"  # emulated: a product takes half a minute
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get("" if slow else device.precision, torch.float32)
    size, repeats = SIZE[device.torch.type], REPEATS[device.torch.type]
    x = torch.rand(size, size, device=device.torch).to(dtype)  # a GPU's clock is higher where all numbers are alike
    layer = Linear(size, size, bias=False, dtype=dtype, device=device.torch)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(repeats + 1):  # the first one warms up
            start = time.perf_counter()
            layer(x)[0, 0].item()  # waits for a GPU
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
