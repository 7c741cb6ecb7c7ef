"""What a run computes with where its configuration leaves that to the machine: kept in its manifest, and kept to when it goes on."""

from pathlib import Path
from typing import Any

from biomlm.core.errors import ConfigError
from biomlm.core.files import read_json
from biomlm.core.manifest import NAME, Manifest
from biomlm.model.config import ScaledPrecision
from biomlm.model.device import Device, choose
from biomlm.training.distributed.process_group import World


def device_of(run: str | Path, precision: ScaledPrecision) -> Device:
    """Choose where a run computes, and how precisely: where that is left to the machine, as it was begun.

    Args:
        run: The run folder, which may not be there yet.
        precision: As configured.

    Raises:
        ConfigError: This machine lacks it.
    """
    file = Path(run) / NAME
    before: Any = read_json(file).get("resolved", {}) if file.is_file() else {}
    if precision != "auto" or "precision" not in before:
        return choose(precision)
    try:
        return choose(before["precision"])
    except ConfigError as error:
        raise ConfigError(
            f"this run was begun in {before['precision']}, and {str(error).splitlines()[0]}",
            file=run,
            remedy="Go on with it on a machine that has it, or start anew in another --out.",
        ) from None


def keep(run: Path, record: Manifest, world: World, *, device: Device, kernels: str) -> None:
    """Write down what a run computes with from now on."""
    record.resolved = {"precision": device.precision, "kernels": kernels, "processes": world.size}
    if world.is_main:
        record.write(run)
