"""The `fairseq-train` call that computes what a configuration of ours says, and what its log says back.

fairseq 0.12's options (fairseq/options.py, tasks/masked_lm.py, models/roberta). What fairseq cannot do is refused, not left out.
"""

import math
import re
from pathlib import Path
from typing import Any

import orjson

from biomlm.convert.names.fairseq import ARCHITECTURES
from biomlm.core.errors import ConfigError
from biomlm.model.config import EncoderConfig
from biomlm.model.optim.registry import OPTIMISERS
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.fairseq_engine.start import FOLDER, Gpus, Start
from biomlm.pretrain.objectives.config import MlmConfig, ObjectiveConfig

ARCH = "roberta_base"
BITS = math.log(2)  # nats
SCRATCH = Start()
RECORD = re.compile(r"\| (train_inner|valid) \| (\{.*\})\s*$")


def call(
    config: PretrainConfig, encoder: EncoderConfig, precision: str, *, gpus: Gpus, start: Start = SCRATCH
) -> list[str]:
    """Return the arguments of `fairseq-train`.

    Of a run that is trained longer fairseq counts the steps on: its schedule begins where the run before ended, as one whose warm-up
    has just been.

    Args:
        config: Of the run.
        encoder: The model's shape.
        precision: `fp32`, `fp16` or `bf16`.
        gpus: The GPUs that it trains on.
        start: The weights that it starts from.

    Raises:
        ConfigError: fairseq cannot do what the configuration says.
    """
    refuse(config, encoder, precision, gpus)
    optim, mlm, end = config.optim, config.mlm, start.updates + config.steps
    options: dict[str, object] = {
        "task": "masked_lm",
        "criterion": "masked_lm",
        "arch": ARCH,
        "encoder-layers": encoder.num_hidden_layers,
        "encoder-embed-dim": encoder.hidden_size,
        "encoder-ffn-embed-dim": encoder.intermediate_size,
        "encoder-attention-heads": encoder.num_attention_heads,
        "dropout": encoder.hidden_dropout,
        "attention-dropout": encoder.attention_dropout,
        "sample-break-mode": "complete" if config.batch.form == "full" else "complete_doc",
        "tokens-per-sample": config.batch.max_length,
        "max-positions": encoder.max_positions,
        "mask-prob": mlm.mask_rate,
        "random-token-prob": mlm.random_share,
        "leave-unmasked-prob": round(1 - mlm.mask_share - mlm.random_share, 6),
        "max-tokens": config.batch.tokens,
        "update-freq": config.batch.accumulation // gpus.size,  # of each process
        "optimizer": "adam",
        "adam-betas": str(optim.betas),
        "adam-eps": optim.eps,
        "weight-decay": optim.weight_decay,
        "clip-norm": optim.clip,
        "lr": optim.lr,
        "lr-scheduler": "polynomial_decay",
        "warmup-updates": start.updates + round(optim.warmup * config.steps),
        "total-num-update": end,
        "end-learning-rate": optim.final * optim.lr,
        "power": optim.power if optim.schedule == "polynomial" else 1.0,
        "max-update": end,
        "seed": config.seed,
        "save-interval-updates": config.save_every,
        "keep-interval-updates": config.keep,
        "validate-interval-updates": config.eval_every,
        "log-format": "json",
        "log-interval": config.log_every,
        "save-dir": Path(config.out) / FOLDER,
        **gpus.options,
        **start.options,
    }
    flags = ["skip-invalid-size-inputs-valid-test", "no-epoch-checkpoints"]
    flags += (
        ["encoder-normalize-before"] * encoder.pre_norm
        + ["cpu"] * (not gpus.here)
        + [precision] * (precision != "fp32")
    )
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    return [config.folders[0], *words, *(f"--{flag}" for flag in flags)]


def refuse(config: PretrainConfig, encoder: EncoderConfig, precision: str, gpus: Gpus) -> None:
    """Raise ConfigError for the first thing that fairseq's masked_lm task does otherwise or not at all."""
    if config.batch.accumulation % gpus.size:
        raise ConfigError(
            f"fairseq has no steps of {config.batch.accumulation} micro-batches on {gpus.size} GPUs",
            remedy=f"Give --batch.accumulation {gpus.size} or a multiple, with as many fewer --batch.tokens.",
        )
    whole = MlmConfig(
        mask_rate=config.mlm.mask_rate, mask_share=config.mlm.mask_share, random_share=config.mlm.random_share
    )
    batch, sizes = config.batch, BatchConfig(config.batch.tokens, config.batch.accumulation, config.batch.max_length)
    cannot = {
        "several folders of shards": len(config.folders) > 1,
        f"models of the shape {encoder.shape}": ARCHITECTURES.get(encoder.shape) != ARCH,
        "warm-up of a run that is trained longer (optim.warmup)": bool(config.longer and config.optim.warmup),
        "rows behind the vocabulary (model.pad_vocab_to)": config.model.pad_vocab_to != 1,
        "weight of its one loss (objective.mlm)": config.objective.mlm != 1,
        "pair objectives": config.objective != ObjectiveConfig(mlm=config.objective.mlm),
        "masks other than of single tokens, drawn anew": config.mlm != whole,
        "sequences of that form": batch.form == "pairs" or (batch.short_seq_prob != sizes.short_seq_prob),
        "a curriculum": bool(config.curriculum),
        "a mix of sources": config.mix.active,
        f"the schedule {config.optim.schedule}": config.optim.schedule not in ("linear", "polynomial"),
        f"the optimiser {config.optim.name}": not OPTIMISERS[config.optim.name].fairseq,
        "say in whether apex is used (optim.apex)": config.optim.apex,
        "rates by layer": config.optim.layer_decay != 1,
        "a running mean of the weights": config.optim.ema != 0,
        "frozen layers": config.freeze_layers != 0,
        f"{precision} without a GPU": precision != "fp32" and not gpus.here,
    }
    if first := next((what for what, asked in cannot.items() if asked), None):
        raise ConfigError(f"fairseq has no {first}", remedy="Leave it out, or give another --engine.")


def record(line: str) -> tuple[int, str, dict[str, float]] | None:
    """Parse step, split and figures from a line of fairseq's log, in our terms (losses in nats); None for any other line."""
    match = RECORD.search(line)
    if match is None:
        return None
    try:
        entry: dict[str, Any] = orjson.loads(match[2])
        if match[1] == "valid":
            return int(entry["valid_num_updates"]), "valid", {"fairseq_loss": float(entry["valid_loss"]) * BITS}
        names = {"gradient_norm": "gnorm", "learning_rate": "lr", "tokens_per_second": "wps", "words": "wpb"}
        figures = {name: float(entry[key]) for name, key in names.items() if key in entry}
        return int(entry["num_updates"]), "train", {"loss": float(entry["loss"]) * BITS, **figures}
    except (orjson.JSONDecodeError, KeyError, ValueError):
        return None
