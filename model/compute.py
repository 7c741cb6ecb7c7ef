"""How a model computes, where that does not change what it computes."""

import importlib.util
import os
import shutil
import sys

import torch
import torch.nn.attention

from biomlm.core.errors import ConfigError
from biomlm.model.config import ComputeConfig, Kernel
from biomlm.model.device import Device
from biomlm.model.encoder import Encoder
from biomlm.model.kernels.attention import check, pick

WORKSPACES = (
    ":4096:8",
    ":16:8",
)  # of cuBLAS, with which it computes the same bits each time (NVIDIA's documentation of cuBLAS)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HOPPER = (9, 0)  # compute capability


def prepare(encoder: Encoder, device: Device, config: ComputeConfig) -> str:
    """Set an encoder up for training; what was chosen, in words.

    Raises:
        ConfigError: The attention kernel that was asked for cannot run here, nothing here can compile, or cuBLAS is set up otherwise.
    """
    if config.deterministic:
        make_deterministic(device)
    dtype, dropout = DTYPES[device.precision], encoder.config.attention_dropout
    check(config.attention, device.torch, dtype, dropout)
    third = (
        config.attention in ("auto", "varlen")
        and not config.deterministic
        and activate_flash_attention_3(device, dropout)
    )
    encoder.use_attention("varlen" if third else config.attention)
    encoder.recompute = config.recompute
    if config.compile:
        require_compiler(device)
        encoder.compile_layers(attention_kernel(encoder, device))
    remarks = {
        "FlashAttention 3": third,
        "compiled": config.compile,
        "recomputing layers": config.recompute,
        "deterministic": config.deterministic,
    }
    return ", ".join([kernels_of(encoder, device), *(word for word, holds in remarks.items() if holds)])


def make_deterministic(device: Device) -> None:
    """Ask torch for operations that give the same bits in every run, and for an error from those that have no such form.

    Must come before the first matrix product on the device, when cuBLAS is set up.

    Raises:
        ConfigError: CUBLAS_WORKSPACE_CONFIG has a value with which cuBLAS does not.
    """
    if device.torch.type == "cuda":
        workspace = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACES[0])
        if workspace not in WORKSPACES:
            raise ConfigError(
                f"compute.deterministic, and CUBLAS_WORKSPACE_CONFIG is {workspace}, with which cuBLAS is not",
                remedy=f"Leave the variable unset, or give it {' or '.join(WORKSPACES)}.",
            )
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # nothing reads such
    torch.use_deterministic_algorithms(True)


def activate_flash_attention_3(device: Device, dropout: float) -> bool:
    """Have torch's variable-length attention run by FlashAttention 3 (arXiv 2407.08608) from now on, if that is possible; whether it is.

    It computes on Hopper in 16 bits and has no dropout; torch takes it from the package flash_attn_interface, from torch 2.11 on.
    """
    activate = getattr(torch.nn.attention, "activate_flash_attention_impl", None)
    if device.torch.type != "cuda" or device.precision == "fp32" or dropout or activate is None:
        return False
    if torch.cuda.get_device_capability(device.torch) != HOPPER or not importlib.util.find_spec("flash_attn_interface"):
        return False
    activate("FA3")
    return True


def kernels_of(encoder: Encoder, device: Device) -> str:
    """Say on what an encoder computes, and by which kernel of attention."""
    return f"{device.torch} {device.precision}, attention by {attention_kernel(encoder, device)}"


def attention_kernel(encoder: Encoder, device: Device) -> Kernel:
    """Return the kernel of attention that an encoder computes by, where it was left to us the one for layers without a window."""
    kernel: Kernel = encoder.layers[0].attention.kernel  # type: ignore[assignment, union-attr]
    return (
        pick(device.torch, DTYPES[device.precision], encoder.config.attention_dropout) if kernel == "auto" else kernel
    )


def require_compiler(device: Device) -> None:
    """Refuse compiled layers where what torch.compile writes cannot be compiled.

    Raises:
        ConfigError: There is no Triton for a GPU, or no C++ compiler for a CPU.
    """
    if device.torch.type == "cuda":
        available, needed = importlib.util.find_spec("triton") is not None, "the package triton"
    else:
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch looks for it
        available, needed = shutil.which(compiler) is not None, f"the C++ compiler `{compiler}` (or one named by CXX)"
    if not available:
        raise ConfigError(
            f"compiled layers need {needed}, which is not there",
            remedy="Install it, or leave out the option that compiles.",
        )
