"""Model FLOPs utilisation: what a step must compute, over what the device could have computed in that time.

Counted are matrix products only, a multiplication and an addition as two, the backward pass as twice the forward pass, nothing for
recomputation (Chowdhery et al. 2022, "PaLM", arXiv 2204.02311, appendix B), the head and what follows the last layer's attention at
predicted positions only, and attention as far as each token sees.
"""

import re
import time
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from biomlm.model.config import EncoderConfig
from biomlm.model.device import Device
from biomlm.model.kernels.linear import Linear


class GPU(NamedTuple):
    """What a datasheet says of one.

    Args:
        half: Dense rate of its tensor cores for bf16 and fp16 with sums in float32, in TFLOP/s.
        single: Rate for fp32 as torch computes it by default, without TF32, in TFLOP/s.
        memory: Rate of its memory, in GB/s.
        processors: Streaming multiprocessors, of which a MIG slice has some; 0 where it cannot be sliced.
    """

    half: float
    single: float
    memory: float
    processors: int = 0


# By what stands in the device's name, as torch.cuda.get_device_name prints it; of several that do, the longest. What is missing here is
# measured. Sources, all NVIDIA's: "datasheet" is the product's own; where it prints rates with sparsity, half of them is meant. Memory's
# rates are those datasheets' too; where a name stands for several cards the slowest's: A100 of 40 and 80 GB, 1,555 and 2,039 GB/s; GH200
# with HBM3 and HBM3e, 4,000 and 4,900.
GPUS: dict[str, GPU] = {
    "GB200": GPU(2500.0, 80.0, 8000, 148),  # GB200 NVL72 and HGX B200 specifications: 5 and 4.5 PFLOP/s with sparsity
    "B200": GPU(2250.0, 75.0, 8000, 148),
    "GH200": GPU(989.4, 66.9, 4000, 132),  # Grace Hopper superchip's datasheet: 1,979 with sparsity, an H100 SXM's
    "H200 NVL": GPU(835.5, 60.0, 4800, 132),  # H200 datasheet: SXM 1,979, NVL 1,671 with sparsity
    "H200": GPU(989.4, 66.9, 4800, 132),
    "H100 NVL": GPU(835.5, 60.0, 3900, 132),  # H100 datasheet: SXM 1,979, NVL 1,671, PCIe 1,513 with sparsity
    "H100 PCIe": GPU(756.0, 51.2, 2000, 114),
    "H100": GPU(989.4, 66.9, 3350, 132),
    "L40S": GPU(362.05, 91.6, 864),  # L40S datasheet
    "L40": GPU(181.05, 90.5, 864),  # L40 datasheet
    "L4": GPU(121.0, 30.3, 300),  # L4 datasheet: 242 with sparsity
    "RTX 6000 Ada": GPU(364.2, 91.1, 960),  # Ada architecture whitepaper (professional): with sparsity 728.5
    "RTX 4090 D": GPU(147.1, 73.5, 1008),  # 114 of the 4090's 128 multiprocessors at its clock
    "RTX 4090": GPU(165.2, 82.6, 1008),  # Ada architecture whitepaper, appendix A: fp16 with fp32 accumulate
    "A800": GPU(312.0, 19.5, 2039, 108),  # A800 datasheet: an A100 with slower NVLink
    "A100": GPU(312.0, 19.5, 1555, 108),  # A100 datasheet, PCIe and SXM alike
    "A40": GPU(149.7, 37.4, 696),  # A40 datasheet
    "A30": GPU(165.0, 10.3, 933, 56),  # A30 datasheet
    "A10G": GPU(70.0, 35.0, 600),  # A10G datasheet: 140 with sparsity
    "A10": GPU(125.0, 31.2, 600),  # A10 datasheet
    "RTX A6000": GPU(154.8, 38.7, 768),  # GA102 whitepaper, appendix B: 309.7 with sparsity
    "RTX 3090 Ti": GPU(80.0, 40.0, 1008),  # by the clock of the card's specification
    "RTX 3090": GPU(71.0, 35.6, 936),  # GA102 whitepaper, appendix A: fp16 with fp32 accumulate
    "T4": GPU(65.0, 8.1, 320),  # T4 datasheet
    "V100S": GPU(130.0, 16.4, 1134),  # V100 datasheet: SXM2 125, PCIe 112, V100S 130
    "V100-PCIE": GPU(112.0, 14.0, 900),
    "V100": GPU(125.0, 15.7, 900),
}
SLOWER = re.compile(r"\b(Laptop|Max-Q|Mobile)\b")  # of the same name, at clocks that differ from machine to machine
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
    gpu = known(torch.cuda.get_device_name(device.torch)) if device.torch.type == "cuda" else None
    return measured_peak(device) if gpu is None else rate(gpu, device) * 1e12


def known(name: str) -> GPU | None:
    """Find a GPU by the longest key in its device's name; None if there is none."""
    keys = [key for key in GPUS if re.search(rf"\b{key}\b", name) and not SLOWER.search(name)]
    return GPUS[max(keys, key=len)] if keys else None


def rate(gpu: GPU, device: Device) -> float:
    """Return the rate of a device in TFLOP/s: of a MIG slice its share of the card's multiprocessors."""
    full = gpu.single if device.precision == "fp32" else gpu.half
    if not gpu.processors or " MIG " not in torch.cuda.get_device_name(device.torch):
        return full
    return full * torch.cuda.get_device_properties(device.torch).multi_processor_count / gpu.processors


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
