"""DeepSpeed's configuration: what follows from ours, with the user's ds_config laid over it.

A step's arithmetic is the run's alone, the same in every engine, so an entry that would change it is refused, and one that would do nothing
here too. What is left says where numbers lie and how they travel.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from biomlm.core.errors import ConfigError
from biomlm.core.files import read_json
from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.registry import OPTIMISERS
from biomlm.training.config import DeepSpeedConfig

BUCKET = 500_000_000  # numbers: DeepSpeed's own default

DECIDED = {
    "optimizer": "--optim",
    "scheduler": "--optim",
    "gradient_clipping": "--optim.clip",
    "gradient_accumulation_steps": "--batch.accumulation",
    "train_batch_size": "--batch.tokens and --batch.accumulation",
    "train_micro_batch_size_per_gpu": "--batch.tokens",
    "fp16.enabled": "--precision",
    "bf16.enabled": "--precision",
}
ANYTHING: Mapping[str, Any] = {}
OFFLOADED = dict.fromkeys(
    [
        "device",
        "nvme_path",
        "buffer_count",
        "buffer_size",
        "max_in_cpu",
        "pin_memory",
        "pipeline_read",
        "pipeline_write",
        "fast_init",
    ]
)
ZERO_3 = [
    "prefetch_bucket_size",
    "param_persistence_threshold",
    "model_persistence_threshold",
    "max_live_parameters",
    "max_reuse_distance",
    "module_granularity_threshold",
    "use_all_reduce_for_fetch_params",
    "allgather_sequential",
    "gather_16bit_weights_on_model_save",
]
ZERO = [
    "stage",
    "contiguous_gradients",
    "reduce_scatter",
    "reduce_bucket_size",
    "use_multi_rank_bucket_allreduce",
    "allgather_partitions",
    "allgather_bucket_size",
    "overlap_comm",
    "sub_group_size",
    "ignore_unused_parameters",
    "round_robin_gradients",
    "zero_hpz_partition_size",
    "memory_efficient_linear",
    "log_trace_cache_warnings",
    "enable_sanity_checks",
    "load_from_fp32_weights",
    "elastic_checkpoint",
]
TAKEN: Mapping[
    str, Any
] = {  # a None stands for any value, a mapping for entries of its own, an empty one for any of them
    **dict.fromkeys(["steps_per_print", "wall_clock_breakdown", "memory_breakdown"]),
    **dict.fromkeys(("comms_logger", "flops_profiler", "aio"), ANYTHING),
    "zero_optimization": {
        **dict.fromkeys([*ZERO, *ZERO_3, *(f"stage3_{name}" for name in ZERO_3)]),
        "offload_optimizer": OFFLOADED,
        "offload_param": OFFLOADED,
    },
}


def settings(
    config: DeepSpeedConfig, optim: OptimConfig, parameters: int, precision: Literal["fp32", "bf16", "fp16"]
) -> dict[str, Any]:
    """Return the configuration for DeepSpeed; entries that the user left at `auto` are set by ours.

    Args:
        config: What the user says of DeepSpeed.
        optim: How the weights move.
        parameters: Of the model: a larger bucket than its gradients need is memory taken anew in every step.
        precision: What the device computes in.

    Raises:
        ConfigError: The file sets what is not DeepSpeed's to decide, or ours is something that ZeRO computes wrongly.
    """
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # the loop says itself which micro-batch is a step's last
        "gradient_clipping": optim.clip,
        "zero_optimization": {"stage": config.stage, "reduce_bucket_size": min(BUCKET, parameters)},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }
    if config.offload:
        ours["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    file = config.config
    given = _said(read_json(file, remedy="Give a ds_config.")) if file else {}
    agreed = {
        "gradient_clipping": (optim.clip,),
        "zero_allow_untested_optimizer": (True,),
        "zero_force_ds_cpu_optimizer": (False,),
        "fp16.enabled": (precision == "fp16",),
        "bf16.enabled": (False, precision == "bf16"),
    }
    if refused := list(_refused(given, TAKEN, agreed)):
        problem = "; ".join(
            f"{name} belongs into {DECIDED[name]}" if name in DECIDED else f"{name} is not DeepSpeed's to decide here"
            for name in refused
        )
        raise ConfigError(problem, file=file, remedy="Take it out." if len(refused) == 1 else "Take them out.")
    merged = _overlaid(ours, given)
    stage, halved = merged["zero_optimization"]["stage"], given.get("bf16", {}).get("enabled", False)
    if stage not in (0, 1, 2, 3):
        raise ConfigError(f"there is no stage {stage} of ZeRO", file=file, remedy="Give 0, 1, 2 or 3.")
    if halved and not stage:
        raise ConfigError(
            "at stage 0 DeepSpeed's bf16 leaves no float32 weights for a checkpoint",
            file=file,
            remedy="Take bf16 out: --precision bf16 computes in it over float32 weights.",
        )
    # Without sharing, weights stay float32 and torch casts them, as in the other engines; the loss scale is ours at every stage.
    merged["fp16"] = {"enabled": True, "loss_scale": 1.0} if precision == "fp16" and stage else {"enabled": False}
    if optim.ema:
        raise ConfigError("DeepSpeed keeps no running mean of the weights", remedy="Leave --optim.ema out.")
    if optim.apex:
        raise ConfigError("DeepSpeed's engine takes no optimizer of apex's", remedy="Leave --optim.apex out.")
    sliced = [name for name, row in OPTIMISERS.items() if row.sliced]
    if stage and not OPTIMISERS[optim.name].sliced:
        raise ConfigError(
            f"ZeRO lays parameters end to end, which {optim.name} is not made for",
            remedy=f"Take --optim.name {' or '.join(sliced)}, or --deepspeed.stage 0.",
        )
    return merged


def _said(given: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the entries that leave the choice to us."""
    return {
        name: _said(value) if isinstance(value, dict) else value
        for name, value in given.items()
        if value is not None and value != "auto"
    }


def _refused(
    given: Mapping[str, Any], taken: Mapping[str, Any], agreed: Mapping[str, tuple[Any, ...]], prefix: str = ""
) -> Iterator[str]:
    """List the dotted names of entries that are neither passed on nor equal to our own setting."""
    for key, value in given.items():
        name = f"{prefix}{key}"
        if name in agreed:
            if value not in agreed[name]:
                yield name
        elif isinstance(value, dict) and name in ("fp16", "bf16"):
            yield from _refused(value, {}, agreed, f"{name}.")
        elif key not in taken:
            yield name
        elif isinstance(value, dict) and taken[key]:
            yield from _refused(value, taken[key], agreed, f"{name}.")


def _overlaid(ours: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(ours)
    for name, value in given.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _overlaid(merged[name], value) if both else value
    return merged
