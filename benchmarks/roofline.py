"""What a training step asks of a GPU, by `biomlm.model.roofline`: the tables of docs/gpu.md, which a test compares with this.

    python benchmarks/roofline.py

Every figure is counted (kernels, bytes, products) or estimated from counts and datasheets (milliseconds, shares); none is measured.
"""

from collections.abc import Iterator

from biomlm.core.fleet import find
from biomlm.model.config import EncoderConfig, ModelConfig
from biomlm.model.flops import step_flops
from biomlm.model.roofline import EFFICIENCIES, Way, Work, head, layer_backward, layer_forward, optimizer, step
from biomlm.pretrain.planning.estimate import parameters

GPUS = {"V100": "v100-32gb", "A100": "a100-80gb", "H100": "h100-80gb"}
TOKENS, LENGTH, PIECES, MASKED, MICRO_BATCHES = 32_768, 512, 50_048, 0.15, 8
BEFORE, AFTER, COMPILED = Way(copies_once=False), Way(), Way(compiled=True)


def milliseconds(work: Work, gpu: str) -> float:
    """On one GPU."""
    fleet = find(GPUS[gpu])
    return 1e3 * work.seconds(fleet.tflops, fleet.bandwidth, EFFICIENCIES[fleet.kind])


def parts(encoder: EncoderConfig) -> Iterator[tuple[str, Work]]:
    """Of one micro-batch, and of the step's end."""
    for name, way in (("before", BEFORE), ("now", AFTER), ("compiled", COMPILED)):
        yield f"layer, forward, {name}", layer_forward(encoder, TOKENS, LENGTH, way)
        yield f"layer, backward, {name}", layer_backward(encoder, TOKENS, LENGTH, way)
    yield "head and loss", head(encoder, MASKED * TOKENS, AFTER)
    yield "optimiser, once a step", optimizer(parameters(encoder), 2)


def by_part(encoder: EncoderConfig) -> Iterator[str]:
    """The table of parts."""
    yield "| part | kernels | GB moved beside products | TFLOP | " + " | ".join(f"ms {gpu}" for gpu in GPUS) + " |"
    yield "|---|---|---|---|" + "---|" * len(GPUS)
    for name, work in parts(encoder):
        times = " | ".join(f"{milliseconds(work, gpu):.2f}" for gpu in GPUS)
        yield f"| {name} | {work.launches:.0f} | {work.moved / 1e9:.2f} | {(work.products + work.attention) / 1e12:.2f} | {times} |"


def by_step() -> Iterator[str]:
    """The table of whole steps."""
    yield "| model | way | " + " | ".join(f"{gpu}: share, tokens/s" for gpu in GPUS) + " |"
    yield "|---|---|" + "---|" * len(GPUS)
    for size in ("base", "large"):
        encoder = ModelConfig(size=size).resolve(PIECES, LENGTH, 1)
        predicted = MASKED * TOKENS
        flops = step_flops(encoder, [LENGTH] * (TOKENS // LENGTH), round(predicted), round(predicted)) * MICRO_BATCHES
        for name, way in (("before", BEFORE), ("now", AFTER), ("compiled", COMPILED)):
            one = step(encoder, TOKENS, LENGTH, predicted, way, last_rows=predicted)
            work = one * MICRO_BATCHES + optimizer(parameters(encoder), 2)
            cells = []
            for gpu, fleet in GPUS.items():
                seconds = milliseconds(work, gpu) / 1e3
                share = flops / seconds / (find(fleet).tflops * 1e12)
                cells.append(f"{share:.0%}, {MICRO_BATCHES * TOKENS / seconds / 1e3:,.0f}k")
            yield f"| {size} | {name} | " + " | ".join(cells) + " |"


def tables() -> str:
    """Both, as docs/gpu.md has them."""
    base = ModelConfig(size="base").resolve(PIECES, LENGTH, 1)
    return "\n".join([*by_part(base), "", *by_step()])


if __name__ == "__main__":
    print(tables())
