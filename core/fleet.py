"""Describe what a plan is made for: fleets of GPUs by name, the options that suit them, and the outputs of a recipe's earlier stages.

Rates are NVIDIA's datasheets' for dense 16-bit products and for the GPU's memory.
Bandwidths are what a collective can use of NVLink within a node and of the usual
network between nodes (100 Gb/s Ethernet or InfiniBand a node for V100, 8 × 200 for A100, 8 × 400 for H100), in GB/s each way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biomlm.core.errors import ConfigError


@dataclass(frozen=True)
class Fleet:
    """Machines of one kind.

    Args:
        name: As `--fleet` gives it.
        gpu: The GPU.
        memory_gb: Of one GPU.
        tflops: 16-bit tensor-core rate of one GPU, dense.
        bandwidth: Of one GPU's memory, GB/s.
        kind: Its architecture, by which `model.roofline` says what is reached of both rates.
        inside: Bandwidth between the GPUs of a node, GB/s for each GPU.
        between: Bandwidth between nodes, GB/s for each node.
        nodes: Machines.
        gpus: GPUs of a machine.
        options: What training verbs are given on it, under the recipe's own options.
        measured: Share of `tflops` that a training has reached, which replaces the roofline; None where none is known.
    """

    name: str
    gpu: str
    memory_gb: float
    tflops: float
    bandwidth: float
    kind: str
    inside: float
    between: float
    nodes: int = 1
    gpus: int = 8
    options: dict[str, Any] = field(default_factory=dict)
    measured: float | None = None

    @property
    def size(self) -> int:
        """GPUs in all."""
        return self.nodes * self.gpus


@dataclass(frozen=True)
class Before:
    """A stage's inputs, as far as they are known before anything has been run.

    Args:
        vocab_size: Pieces of the vocabulary.
        makers: Folder → configuration of the earlier stage that makes it.
    """

    vocab_size: int
    makers: Mapping[Path, Any] = field(default_factory=dict)

    def maker(self, path: str | Path) -> Any:
        """Find the configuration of the earlier stage that makes a path or the folder that it lies in; None if none does."""
        return next((self.makers[p] for p in (Path(path), *Path(path).parents) if p in self.makers), None)


# A V100 has no bf16; 16 GB want the layers computed twice.
FLEETS = {
    fleet.name: fleet
    for fleet in (
        Fleet(
            "v100-16gb",
            "V100",
            16,
            125,
            900,
            "volta",
            120,
            12,
            options={"precision": "fp16", "compute": {"recompute": True}},
        ),
        Fleet("v100-32gb", "V100", 32, 125, 900, "volta", 120, 12, options={"precision": "fp16"}),
        Fleet(
            "a100-40gb",
            "A100",
            40,
            312,
            1555,
            "ampere",
            240,
            200,
            options={"precision": "bf16", "compute": {"compile": True}},
        ),
        Fleet(
            "a100-80gb",
            "A100",
            80,
            312,
            2039,
            "ampere",
            240,
            200,
            options={"precision": "bf16", "compute": {"compile": True}},
        ),
        Fleet(
            "h100-80gb",
            "H100",
            80,
            989,
            3350,
            "hopper",
            360,
            400,
            options={"precision": "bf16", "compute": {"compile": True}},
        ),
    )
}

MOST_NODES = 100_000


def find(name: str) -> Fleet:
    """Find a fleet by its name; `4 x a100-80gb` is four nodes of it.

    Raises:
        ConfigError: There is no fleet of that name.
    """
    count, _, kind = name.rpartition("x ") if "x " in name else ("", "", name)
    fleet = FLEETS.get(kind.strip())
    number = count.strip()
    wrong = "x " in name and not (number.isascii() and number.isdigit() and 0 < int(number) <= MOST_NODES)
    if fleet is None or wrong:
        names = ", ".join(FLEETS)
        raise ConfigError(f"there is no fleet {name}", remedy=f"Choose one of {names}; `4 x v100-32gb` is four nodes.")
    nodes = int(number) if number else 1
    return Fleet(**{**vars(fleet), "nodes": nodes})
