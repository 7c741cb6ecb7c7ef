"""What a pretraining would need: parameters, memory of a GPU, time, disk. Formulas, not measurements; docs/scaling.md checks them.

Memory of one GPU is states (weights, gradients, optimizer state; sharded as ZeRO does: Rajbhandari et al. 2020, arXiv 1910.02054),
activations that the backward pass needs (counted from what this encoder keeps, in the manner of Korthikanti et al. 2022, arXiv
2205.05198), and the head's logits. `biomlm.distill.estimate` adds what a teacher takes.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from biomlm.convert.config import ConvertConfig
from biomlm.convert.load import read_source
from biomlm.convert.names.table import meta_model
from biomlm.core.fleet import Before, Fleet
from biomlm.model import roofline
from biomlm.model.config import EncoderConfig
from biomlm.model.flops import step_flops
from biomlm.model.kernels.cross_entropy import BLOCK, LARGE
from biomlm.model.optim.registry import OPTIMISERS
from biomlm.model.roofline import EFFICIENCIES, Way
from biomlm.pretrain.config import AverageConfig, PretrainConfig, accumulations, idle_share

GB = 1e9
NUMBER = 4  # bytes of a parameter's weight, gradient and each tensor of the optimizer's state, in float32
HALF_COPY = 2  # bytes a parameter: the 16-bit copy that autocast keeps through a micro-batch
PADDED = 1.15  # places a token where attention pads natural lengths in groups (`model.kernels.attention_padded`)
RESERVE = 1.0  # GB: the driver's context, the communication library's buffers, fragments
ZERO = (0, 1, 2, 3)


@dataclass(frozen=True)
class Need:
    """Of one GPU.

    Args:
        states: GB of weights, gradients and optimizer state, by ZeRO stage 0 to 3 (stage 3 is FSDP's), and of frozen models.
        activations: GB kept for the backward pass of one micro-batch.
        head: GB of logits.
    """

    states: tuple[float, ...]
    activations: float
    head: float

    def total(self, stage: int) -> float:
        """Return the GB in all, by ZeRO stage."""
        return self.states[stage] + self.activations + self.head + RESERVE


@dataclass(frozen=True)
class Beside:
    """What a step holds and computes beside the model that it trains.

    Args:
        trained: Numbers that are trained with it.
        frozen: Bytes of models that are not trained, on every GPU.
        kept: Bytes for each token, kept for the backward pass.
        passing: Bytes for each token while a frozen model runs, before the trained one's activations are there.
        logit: Bytes for each logit of the masked positions, all held at once; None for pretraining's loss.
        flops: Floating-point operations for each token of a step.
        all_rows: Whether the trained model's last layer is wanted at every token, not at predicted ones alone.
    """

    trained: int = 0
    frozen: float = 0.0
    kept: float = 0.0
    passing: float = 0.0
    logit: float | None = None
    flops: float = 0.0
    all_rows: bool = False


ALONE = Beside()


@cache
def parameters(encoder: EncoderConfig) -> int:
    """Count the trainable numbers of the model; once, since a plan asks for each size of micro-batches."""
    return sum(p.numel() for p in meta_model(encoder).parameters())


def encoder_of(config: PretrainConfig, before: Before) -> EncoderConfig:
    """Return the shape that a stage trains: as configured, or of the model that it starts from (see `shape_of`)."""
    source = config.init or config.longer
    if source is None:
        return config.model.resolve(before.vocab_size, config.batch.max_length, pad_token_id=1)
    shape = shape_of(source, before)
    return shape if config.init_vocabulary == "same" else replace(shape, vocab_size=before.vocab_size)


def shape_of(path: str, before: Before) -> EncoderConfig:
    """Return the shape of a model that an earlier stage will make, or that is there already.

    Raises:
        UserError: Neither (see `read_source`).
    """
    maker = before.maker(path)
    if isinstance(maker, PretrainConfig):
        return encoder_of(maker, before)
    if isinstance(maker, ConvertConfig):
        return shape_of(maker.src, before)
    if isinstance(maker, AverageConfig):
        return shape_of(maker.run, before)
    return read_source(path).config  # the weights of most kinds stay on disk: they are mapped


def kept_per_token(encoder: EncoderConfig, *, half: bool, recompute: bool, padded: bool = False) -> float:
    """Count the bytes of one layer kept for each token; `padded` where attention has no kernel for packed rows.

    In units of the width h and the bytes b of a product's number: the layer's input as the products see it b, queries, keys and values
    3b, attention's output b, the feed-forward's input b, and for its inner width (of which a gated one has two and their product) the
    values before and after the activation; the residual sums and the layer's output in float32 3 × 4, two dropout masks of a byte;
    attention's sums of exponentials in float32, one a head. Padded, attention keeps its own queries, keys, values and output.
    """
    h, inner, b = encoder.hidden_size, encoder.intermediate_size, 2 if half else 4
    if recompute:
        return 4 * h
    wide = 4 if encoder.features.gated else 2
    masks = 2 if encoder.hidden_dropout else 0
    own = _padded_widths(encoder) * b if padded else 0.0
    return h * (6 * b + own + 12 + masks) + wide * b * inner + 4 * encoder.num_attention_heads


def _padded_widths(encoder: EncoderConfig) -> float:
    """Count what attention keeps more of a token where it pads, in numbers a width; of local layers keys and values three times."""
    layers = encoder.num_hidden_layers
    local = sum(map(encoder.is_local, range(layers))) / layers
    return local * (8 * PADDED - 3) + (1 - local) * (4 * PADDED - 3 if encoder.attention_dropout else 0.0)


def need(
    encoder: EncoderConfig,
    tokens: int,
    processes: int,
    *,
    half: bool,
    recompute: bool,
    padded: bool = False,
    mask_rate: float = 0.15,
    state: int = 2,
    whole_gradients: bool = False,
    beside: Beside = ALONE,
) -> Need:
    """Estimate the memory of one GPU for micro-batches of `tokens` tokens, with an optimizer of `state` tensors a parameter.

    `whole_gradients`: FSDP keeps them on every rank through the micro-batches of a step.
    """
    p, n = parameters(encoder) + beside.trained, processes
    copy = HALF_COPY * p if half else 0
    # ZeRO 1 shards the optimizer state, 2 gradients too, 3 weights too
    sharded = (0, NUMBER * state * p, NUMBER * (state + 1) * p, NUMBER * (state + 2 - whole_gradients) * p)
    states = tuple(
        (NUMBER * (state + 2) * p - shared + shared / n + (copy if stage < 3 else copy / n) + beside.frozen) / GB
        for stage, shared in enumerate(sharded)
    )
    whole = kept_per_token(encoder, half=half, recompute=False, padded=padded)
    layers = encoder.num_hidden_layers * kept_per_token(encoder, half=half, recompute=recompute, padded=padded)
    once = whole if recompute else 0.0  # of the running layer
    logits = mask_rate * tokens * encoder.vocab_size
    each = (
        16 if half else 12
    )  # bytes: the logits, their float32 copy if they are not, their log-softmax, its gradient and theirs
    head = each * (BLOCK if logits > LARGE else logits) + 4 * encoder.vocab_size * encoder.hidden_size * (
        logits > LARGE
    )
    if beside.logit is not None:
        head = beside.logit * logits
    # a frozen model runs before anything of the trained one's is there
    activations = max((layers + once + beside.kept) * tokens, beside.passing * tokens - head)
    return Need(states, activations / GB, head / GB)


def largest_micro_batch(encoder: EncoderConfig, fleet: Fleet, stage: int, **how: Any) -> int:
    """Find the tokens of the largest micro-batch that fits on a GPU of a fleet, a multiple of 512; 0 if none does."""
    low, high = 0, 1 << 12  # in units of 512
    while high - low > 1:
        middle = (low + high) // 2
        fits = need(encoder, 512 * middle, fleet.size, **how).total(stage) <= fleet.memory_gb
        low, high = (middle, high) if fits else (low, middle)
    return 512 * low


def estimate(config: PretrainConfig, fleet: Fleet, before: Before) -> dict[str, object]:
    """Return the plan of one stage on a fleet, as rows to print."""
    return rows_of(config, encoder_of(config, before), fleet)


def rows_of(config: PretrainConfig, encoder: EncoderConfig, fleet: Fleet, beside: Beside = ALONE) -> dict[str, object]:
    """Return the plan of one stage on a fleet, as rows to print.

    Args:
        config: Of the stage.
        encoder: The shape that it trains.
        fleet: The machines.
        beside: What it holds and computes beside that.
    """
    how: dict[str, Any] = {
        "half": config.precision != "fp32",
        "recompute": config.compute.recompute,
        "padded": fleet.options.get("precision") == "fp16",  # without bf16 there is no flash attention 2 either
        "mask_rate": config.mlm.mask_rate,
        "state": len(OPTIMISERS[config.optim.name].state),
        "whole_gradients": config.engine == "fsdp" and config.batch.accumulation > fleet.size,
        "beside": beside,
    }
    wanted = need(encoder, config.batch.tokens, fleet.size, **how)
    p, per_step = parameters(encoder) + beside.trained, config.batch.tokens * config.batch.accumulation
    rounds = -(-config.batch.accumulation // fleet.size)  # micro-batches go to the GPUs round-robin
    compute = computing_seconds(config, encoder, fleet, rounds=rounds, beside=beside)
    exchange = exchange_seconds(4 * p, fleet)
    own = rounds * config.batch.tokens * (flops_per_token(config, encoder, beside.all_rows) + beside.flops)
    utilisation = own / compute / (fleet.tflops * 1e12)
    seconds = max(compute, exchange)  # the exchange runs beside the backward pass
    days = config.steps * seconds / 86_400
    rows: dict[str, object] = {
        "fleet": f"{fleet.nodes} × {fleet.gpus} {fleet.gpu} {fleet.memory_gb:g} GB",
        "parameters": p,
        "tokens of a step": per_step,
        "tokens in all": per_step * config.steps,
        "micro-batches of a step": _dealt(config, fleet.size),
    }
    for stage in ZERO:
        most = largest_micro_batch(encoder, fleet, stage, **how)
        fits = "" if wanted.total(stage) <= fleet.memory_gb else ", too much"
        name = ("no sharing", "ZeRO 1", "ZeRO 2", "ZeRO 3 or FSDP")[stage]
        rows[f"GB a GPU, {name}"] = f"{wanted.total(stage):.1f}{fits} (largest micro-batch {most:,} tokens)"
    rows["of these, activations and head"] = f"{wanted.activations + wanted.head:.1f} GB"
    rows["seconds a step"] = (
        f"{seconds:.3f} (computing {compute:.3f}, {utilisation:.0%} of the datasheet's products as "
        f"{'a roofline estimates' if fleet.measured is None else 'measured'}, exchanging {exchange:.3f})"
    )
    rows["tokens a second"] = round(per_step / seconds)
    rows["days"] = f"{days:.2f}"
    rows["GPU-hours"] = round(days * 24 * fleet.size)
    saved = NUMBER * (1 + how["state"]) * p / GB
    rows["GB of a checkpoint"] = round(saved, 2)
    rows["GB of checkpoints kept"] = round(saved * (config.keep + 1), 2)
    return rows


def _dealt(config: PretrainConfig, processes: int) -> str:
    """Say how the micro-batches of a step divide among the GPUs."""
    words = []
    for of, accumulation in accumulations(config):
        idle, text = idle_share(accumulation, processes), f"{accumulation} on {processes} GPUs"
        if accumulation < processes:
            text += f": {processes - accumulation} GPUs would be idle, and the run is refused (raise {of})"
        elif idle:
            text += f": {idle:.0%} of their time without work"
        words.append(text)
    return "; then ".join(words)


def computing_seconds(
    config: PretrainConfig, encoder: EncoderConfig, fleet: Fleet, *, rounds: int, beside: Beside = ALONE
) -> float:
    """Estimate how long a GPU computes a step of `rounds` micro-batches, by what a run has reached or by a roofline."""
    tokens, length = config.batch.tokens, config.batch.max_length
    own = rounds * tokens * (flops_per_token(config, encoder, beside.all_rows) + beside.flops)
    if fleet.measured is not None:
        return own / (fleet.tflops * 1e12 * fleet.measured)
    way = Way(config.precision != "fp32", config.compute.compile, recompute=config.compute.recompute)
    predicted = config.mlm.mask_rate * tokens
    one = roofline.step(encoder, tokens, length, predicted, way, last_rows=None if beside.all_rows else predicted)
    trained = parameters(encoder) + beside.trained
    # What a teacher's products take, the kernels beside them take again as of the trained model.
    scale = 1 + beside.flops / flops_per_token(config, encoder, beside.all_rows)
    total = one * (rounds * scale) + roofline.optimizer(trained, len(OPTIMISERS[config.optim.name].state))
    return total.seconds(fleet.tflops, fleet.bandwidth, EFFICIENCIES[fleet.kind])


def flops_per_token(config: PretrainConfig, encoder: EncoderConfig, all_rows: bool) -> float:
    """Count the floating-point operations of the trained model for each token of a step, those of recomputed layers included."""
    length = config.batch.max_length
    again, predicted = 4 / 3 if config.compute.recompute else 1.0, round(config.mlm.mask_rate * length)
    return again * step_flops(encoder, [length], predicted, None if all_rows else predicted) / length


def exchange_seconds(bytes_: float, fleet: Fleet) -> float:
    """Estimate the time to all-reduce `bytes_` of gradients: a ring within the node, and one between nodes over each node's network."""
    n, m = fleet.gpus, fleet.nodes
    inside = 2 * (n - 1) / n * bytes_ / (fleet.inside * 1e9)
    between = 2 * (m - 1) / m * bytes_ / (fleet.between * 1e9)
    return inside + between
