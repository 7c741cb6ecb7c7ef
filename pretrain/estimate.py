"""What a pretraining would need: parameters, memory of a GPU, time, disk. Formulas, not measurements; docs/scaling.md checks them.

Memory of one GPU is states (weights, gradients, moments; shared out as ZeRO does: Rajbhandari et al. 2020, arXiv 1910.02054),
activations that the backward pass needs (counted from what this encoder keeps, in the manner of Korthikanti et al. 2022, arXiv
2205.05198), and the head's logits.
"""

from dataclasses import dataclass
from typing import Any

import torch

from biolm.core.fleet import Fleet
from biolm.model.config import EncoderConfig
from biolm.model.encoder import MaskedLM
from biolm.model.loss import BLOCK, LARGE
from biolm.pretrain.config import PretrainConfig
from biolm.pretrain.flops import step_flops

GB = 1e9
STATES = 16  # bytes a parameter: weight, gradient and two moments in float32
HALF_COPY = 2  # bytes a parameter: the 16-bit copy that autocast keeps through a micro-batch
RESERVE = 1.0  # GB: the driver's context, the communication library's buffers, fragments
ZERO = (0, 1, 2, 3)


@dataclass(frozen=True)
class Need:
    """Of one GPU.

    Args:
        states: GB of weights, gradients and moments, by ZeRO stage 0 to 3 (stage 3 is FSDP's).
        activations: GB kept for the backward pass of one micro-batch.
        head: GB of logits.
    """

    states: tuple[float, ...]
    activations: float
    head: float

    def total(self, stage: int) -> float:
        """GB in all, by ZeRO stage."""
        return self.states[stage] + self.activations + self.head + RESERVE


def parameters(encoder: EncoderConfig) -> int:
    """Trainable numbers of the model."""
    with torch.device("meta"):
        return sum(p.numel() for p in MaskedLM(encoder).parameters())


def kept_per_token(encoder: EncoderConfig, *, half: bool, recompute: bool) -> float:
    """Bytes of one layer kept for each token.

    In units of the width h and the bytes b of a product's number: the layer's input as the products see it b, queries, keys and values
    3b, attention's output b, the feed-forward's input b, and for its inner width (of which a gated one has two and their product) the
    values before and after the activation; the residual sums and the layer's output in float32 3 × 4, two dropout masks of a byte.
    """
    h, inner, b = encoder.hidden_size, encoder.intermediate_size, 2 if half else 4
    if recompute:
        return 4 * h
    wide = 4 if encoder.shape == "modernbert" else 2
    masks = 2 if encoder.hidden_dropout else 0
    return h * (6 * b + 12 + masks) + wide * b * inner


def need(
    encoder: EncoderConfig, tokens: int, processes: int, *, half: bool, recompute: bool, mask_rate: float = 0.15
) -> Need:
    """Memory of one GPU for micro-batches of `tokens` tokens."""
    p, n = parameters(encoder), processes
    copy = HALF_COPY * p if half else 0
    sharded = (0, 8 * p, 12 * p, 16 * p)  # ZeRO 1 shares out moments, 2 gradients too, 3 weights too
    states = tuple(
        (STATES * p - shared + shared / n + (copy if stage < 3 else copy / n)) / GB
        for stage, shared in enumerate(sharded)
    )
    layers = encoder.num_hidden_layers * kept_per_token(encoder, half=half, recompute=recompute)
    once = kept_per_token(encoder, half=half, recompute=False) if recompute else 0.0  # of the layer at work
    logits = mask_rate * tokens * encoder.vocab_size
    each = (
        16 if half else 12
    )  # bytes: the logits, their float32 copy if they are not, their log-softmax, its gradient and theirs
    head = each * (BLOCK if logits > LARGE else logits) + 4 * encoder.vocab_size * encoder.hidden_size * (
        logits > LARGE
    )
    return Need(states, (layers + once) * tokens / GB, head / GB)


def largest_micro_batch(encoder: EncoderConfig, fleet: Fleet, stage: int, **how: Any) -> int:
    """Tokens of the largest micro-batch that fits on a GPU of a fleet, a multiple of 512; 0 if none does."""
    low, high = 0, 1 << 12  # in units of 512
    while high - low > 1:
        middle = (low + high) // 2
        fits = need(encoder, 512 * middle, fleet.size, **how).total(stage) <= fleet.memory_gb
        low, high = (middle, high) if fits else (low, middle)
    return 512 * low


def estimate(config: PretrainConfig, fleet: Fleet, vocab_size: int) -> dict[str, object]:
    """The plan of one stage on a fleet, as rows to print.

    Args:
        config: Of the stage.
        fleet: The machines.
        vocab_size: Of its shards, which need not exist yet.
    """
    encoder = config.model.resolve(vocab_size, config.batch.max_length, pad_token_id=1)
    half = config.precision != "fp32"
    how: dict[str, Any] = {"half": half, "recompute": config.compute.recompute, "mask_rate": config.mlm.mask_rate}
    wanted = need(encoder, config.batch.tokens, fleet.size, **how)
    p, per_step = parameters(encoder), config.batch.tokens * config.batch.accumulation
    length = config.batch.max_length
    flops = step_flops(encoder, [length], round(config.mlm.mask_rate * length)) / length
    again = 4 / 3 if config.compute.recompute else 1.0
    compute = per_step * flops * again / (fleet.size * fleet.tflops * 1e12 * fleet.share)
    exchange = exchange_seconds(4 * p, fleet)
    seconds = max(compute, exchange)  # the exchange runs beside the backward pass
    days = config.steps * seconds / 86_400
    rows: dict[str, object] = {
        "fleet": f"{fleet.nodes} × {fleet.gpus} {fleet.gpu} {fleet.memory_gb:g} GB",
        "parameters": p,
        "tokens of a step": per_step,
        "tokens in all": per_step * config.steps,
    }
    for stage in ZERO:
        most = largest_micro_batch(encoder, fleet, stage, **how)
        fits = "" if wanted.total(stage) <= fleet.memory_gb else ", too much"
        name = ("no sharing", "ZeRO 1", "ZeRO 2", "ZeRO 3 or FSDP")[stage]
        rows[f"GB a GPU, {name}"] = f"{wanted.total(stage):.1f}{fits} (largest micro-batch {most:,} tokens)"
    rows["of these, activations and head"] = f"{wanted.activations + wanted.head:.1f} GB"
    rows["seconds a step"] = (
        f"{seconds:.3f} (computing {compute:.3f} at {fleet.share:.0%} of the datasheet, exchanging {exchange:.3f})"
    )
    rows["tokens a second"] = round(per_step / seconds)
    rows["days"] = f"{days:.2f}"
    rows["GPU-hours"] = round(days * 24 * fleet.size)
    rows["GB of a checkpoint"] = round(12 * p / GB, 2)
    rows["GB of checkpoints kept"] = round(12 * p / GB * (config.keep + 1), 2)
    return rows


def exchange_seconds(bytes_: float, fleet: Fleet) -> float:
    """Time in which all GPUs add up `bytes_` of gradients: a ring within the node, and one between nodes over each node's network."""
    n, m = fleet.gpus, fleet.nodes
    inside = 2 * (n - 1) / n * bytes_ / (fleet.inside * 1e9)
    between = 2 * (m - 1) / m * bytes_ / (fleet.between * 1e9)
    return inside + between
