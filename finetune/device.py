"""Where and in which precision a head and its encoder are computed: as pretraining chooses it, whose room this one may not import."""

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
    precision: Precision = "fp32"

    def autocast(self) -> AbstractContextManager[None]:
        """The context that forward passes run in."""
        return torch.autocast(self.torch.type, torch.bfloat16, enabled=self.precision == "bf16")


def choose(precision: Precision) -> Device:
    """The first GPU if there is one, else the CPU; `auto` takes bf16 where the device multiplies it natively.

    Raises:
        ConfigError: bf16 was asked for on a GPU that lacks it (V100 and older).
    """
    if torch.cuda.is_available():
        device, native = torch.device("cuda"), torch.cuda.get_device_capability() >= (8, 0)
        if precision == "bf16" and not native:
            raise ConfigError(f"{torch.cuda.get_device_name()} has no bf16", remedy="Give --precision fp32.")
    else:
        features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # absent before torch 2.8
        device, native = torch.device("cpu"), bool(features.get("amx_bf16") or features.get("avx512_bf16"))
    return Device(device, ("bf16" if native else "fp32") if precision == "auto" else precision)
