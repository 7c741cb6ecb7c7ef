"""Where and in which precision the arithmetic runs."""

import ctypes
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from biomlm.core.errors import ConfigError
from biomlm.model.config import Precision

VOLTA, AMPERE = (7, 0), (8, 0)  # compute capabilities: of the first tensor cores for fp16, and for bf16
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


@dataclass(frozen=True)
class Device:
    """A device and the precision of its matrix products; weights and optimiser are always fp32."""

    torch: torch.device
    precision: Literal["fp32", "bf16", "fp16"]

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context that forward passes run in."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.torch.type, dtype, enabled=self.precision != "fp32")


def choose(precision: Precision) -> Device:
    """Choose the first GPU if there is one, else the CPU.

    `auto` takes bf16 where the device multiplies it natively; on a GPU with tensor cores for fp16 alone (Volta, Turing) fp16, which a
    loop must scale its losses for; else fp32.

    Raises:
        ConfigError: bf16 was asked for on a GPU that lacks it (V100 and older).
    """
    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        native, scaled = capability >= AMPERE, VOLTA <= capability < AMPERE
        if precision == "bf16" and not native:
            name = torch.cuda.get_device_name()
            raise ConfigError(f"{name} has no bf16", remedy="Give --precision fp16 or fp32.")
        device = torch.device("cuda")
        expand_segments()
    else:
        keep_freed_memory()
        features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # absent before torch 2.8
        native = bool(features.get("amx_bf16") or features.get("avx512_bf16"))
        scaled, device = False, torch.device("cpu")
    if precision == "auto":
        return Device(device, "bf16" if native else "fp16" if scaled else "fp32")
    return Device(device, precision)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy from the host's memory to a device: to a GPU from page-locked memory, so that the host does not wait for it."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def fetch(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy from a device to the host's memory; for all of them a GPU is waited for once."""
    if not tensors or tensors[0].device.type != "cuda":
        return list(tensors)
    copies = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True) for x in tensors]
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return copies


def expand_segments() -> None:
    """Have torch grow a GPU's blocks of memory instead of adding new ones, so that batches of ever new sizes leave no gaps between them.

    Whoever sets PYTORCH_ALLOC_CONF or PYTORCH_CUDA_ALLOC_CONF decides himself.
    """
    if torch.backends.cuda.is_built() and not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():  # type: ignore[no-untyped-call]
        change = getattr(torch._C, "_accelerator_setAllocatorSettings", None)  # from torch 2.8 on
        (change or torch.cuda.memory._set_allocator_settings)("expandable_segments:True")


def keep_freed_memory() -> None:
    """Have glibc keep what it frees for the next step, which it otherwise gives back and then gets again page by page.

    Touching 50 MB of fresh memory takes 20 ms, of kept memory 1.3 ms; a training step of 2 × 768 with 50,000 pieces 1.25 s and 0.87 s.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc; musl and macOS have none
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never; as a number it could not exceed 2 GB, which a step frees at once
