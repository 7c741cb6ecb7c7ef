"""What a run computes with where its configuration leaves that to the machine: kept in its manifest, and kept to when it goes on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from biomlm.core.errors import ConfigError
from biomlm.core.files import read_json
from biomlm.core.manifest import NAME, Manifest
from biomlm.model.config import ComputeConfig, Precision
from biomlm.model.device import Device, choose
from biomlm.training.distributed.process_group import World


def device_of(run: str | Path, precision: Precision, world: World) -> Device:
    """Choose where a run computes, and how precisely: where that is left to the machine, as it was begun, and as rank 0 chooses.

    Args:
        run: The run folder, which may not be there yet.
        precision: As configured.
        world: The ranks, which must all call this.

    Raises:
        ConfigError: This machine lacks it.
    """
    if precision != "auto":
        return choose(precision)
    begun = world.broadcast(_begun(Path(run)) if world.is_main else None)
    try:
        return choose(begun)
    except ConfigError as error:
        raise ConfigError(
            f"this run was begun in {begun}, and {error.problem}",
            file=run,
            remedy="Go on with it on a machine that has it, or start anew in another --out.",
        ) from None


def _begun(run: Path) -> Any:
    """Return the precision that a run was begun in, or this machine's for a new one.

    Earlier versions kept none; their `auto` was never fp16.
    """
    chosen = choose("auto").precision
    if not (run / NAME).is_file():
        return chosen
    manifest: dict[str, Any] = read_json(run / NAME)
    return manifest.get("resolved", {}).get("precision") or ("fp32" if chosen == "fp16" else chosen)


def compute_of(config: ComputeConfig, record: Manifest) -> ComputeConfig:
    """Keep to what a run was begun with: one whose bits were to be the same every time goes on so."""
    return replace(config, deterministic=config.deterministic or bool(record.resolved.get("deterministic")))


def keep(
    run: Path, record: Manifest, world: World, *, device: Device, kernels: str, deterministic: bool = False
) -> None:
    """Write down what a run computes with from now on."""
    record.resolved = {"precision": device.precision, "kernels": kernels, "processes": world.size}
    record.resolved |= {"deterministic": True} if deterministic else {}
    if world.is_main:
        record.write(run)
