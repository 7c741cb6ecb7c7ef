"""Where and in which precision the arithmetic runs."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

from biolm.core.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Device:
    """A device and the precision of its matrix products; weights and optimiser are always fp32."""

    torch: torch.device
    precision: Literal["fp32", "bf16"]

    def autocast(self) -> AbstractContextManager[None]:
        """The context that forward passes run in."""
        return torch.autocast(self.torch.type, torch.bfloat16, enabled=self.precision == "bf16")


def choose(precision: Precision) -> Device:
    """The first GPU if there is one, else the CPU; `auto` takes bf16 where the device multiplies it natively.

    Raises:
        ConfigError: bf16 was asked for on a GPU that lacks it (V100 and older).
    """
    if torch.cuda.is_available():
        native = torch.cuda.get_device_capability() >= (8, 0)
        if precision == "bf16" and not native:
            name = torch.cuda.get_device_name()
            raise ConfigError(f"{name} has no bf16", remedy="Give --precision fp32.")
        device = torch.device("cuda")
    else:
        features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # absent before torch 2.8
        native = bool(features.get("amx_bf16") or features.get("avx512_bf16"))
        device = torch.device("cpu")
    if precision == "auto":
        return Device(device, "bf16" if native else "fp32")
    return Device(device, precision)
