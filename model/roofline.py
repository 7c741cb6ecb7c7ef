"""What a training step asks of a device, and how long that takes at best: a roofline (Williams et al. 2009, doi 10.1145/1498765.1498785).

Counted are products, attention's products, bytes that the kernels beside them move, and kernels. Products and attention run at a share of
the datasheet's rate, bytes at a share of its memory's; where the host starts kernels more slowly than the device runs them, the host
counts. Counts are those of this code, held to what torch dispatches by a test; shares are estimates, one for each class of GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from biomlm.model.config import EncoderConfig

BLOCK_LOGITS = 1 << 25  # as `kernels.cross_entropy.BLOCK`, which needs torch


@dataclass(frozen=True)
class Efficiency:
    """What kernels reach of a datasheet, by class of GPU: estimates, none of them measured on such a machine by us.

    Args:
        products: Share of the rate of matrix products.
        memory: Share of the memory's rate.
        attention: Share of the rate of products that attention reaches, forward and backward together, with heads of 64.
        launch: Seconds between two kernels that the host starts, one after the other, from Python.
    """

    products: float
    memory: float
    attention: float
    launch: float


# Products: cuBLAS on shapes of this size. Attention: 330 of 989 TFLOP/s on an H100, 170 of 312 on an A100 (Dao 2023, arXiv 2307.08691, head
# size 64, without a mask), about 40 of 125 on a V100 by torch's memory-efficient kernel.
EFFICIENCIES: Mapping[str, Efficiency] = {
    "volta": Efficiency(0.68, 0.85, 0.32, 6e-6),
    "ampere": Efficiency(0.75, 0.85, 0.54, 6e-6),
    "hopper": Efficiency(0.70, 0.85, 0.33, 5e-6),
}


@dataclass(frozen=True)
class Work:
    """Of some part of a step.

    Args:
        products: Floating-point operations of matrix products.
        attention: Those of attention.
        moved: Bytes that all other kernels read and write.
        launches: Kernels.
    """

    products: float = 0.0
    attention: float = 0.0
    moved: float = 0.0
    launches: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.products + other.products,
            self.attention + other.attention,
            self.moved + other.moved,
            self.launches + other.launches,
        )

    def __mul__(self, times: float) -> "Work":
        return Work(self.products * times, self.attention * times, self.moved * times, self.launches * times)

    def seconds(self, tflops: float, bandwidth: float, efficiency: Efficiency) -> float:
        """Return how long it takes.

        Args:
            tflops: The device's rate of products, TFLOP/s.
            bandwidth: Its memory's rate, GB/s.
            efficiency: What is reached of both.
        """
        device = (
            self.products / (tflops * 1e12 * efficiency.products)
            + self.attention / (tflops * 1e12 * efficiency.attention)
            + self.moved / (bandwidth * 1e9 * efficiency.memory)
        )
        return max(device, self.launches * efficiency.launch)


@dataclass(frozen=True)
class Way:
    """How a step is computed.

    Args:
        half: In 16 bits over a float32 residual stream; else in float32.
        compiled: Whether torch.compile fuses what stands between products.
        copies_once: Whether 16-bit copies of weights are made once a step (`half_weights`), not in each micro-batch.
        recompute: Whether layers are computed again in the backward pass.
    """

    half: bool = True
    compiled: bool = False
    copies_once: bool = True
    recompute: bool = False


def layer_forward(encoder: EncoderConfig, tokens: float, length: float, way: Way) -> Work:
    """Count one layer's forward pass in training over sequences of `length` tokens."""
    h, i, b = encoder.hidden_size, encoder.intermediate_size, 2 if way.half else 4
    wide, drops = 2 if encoder.features.gated else 1, 2 if encoder.hidden_dropout else 0
    products = 2 * h * (4 * h + (wide + 1) * i) * tokens
    attention = 4 * h * length * tokens
    activation = (5 if wide == 2 else 2) * b * i
    if way.compiled:  # dropout, sum, norm and cast are one kernel, the activation another, rotations a third
        moved: float = h * 2 * (b + 4 + 4 + 4 + (b if way.half else 0)) + (wide + 1) * b * i
        launches = 8.0
        rotary = Work(moved=4 * b * h, launches=1)
    else:
        casts = 2 * (4 + b) if way.half else 0  # of what the sub-layers read
        moved = h * (casts + drops * (2 * b + 1) + 2 * (4 + b + 4) + 2 * 8) + activation
        launches = 10.0 + drops + (2 if way.half else 0) + (wide - 1)
        rotary = Work(moved=112 * h, launches=14)  # as counted: in float32, half by half
    if encoder.rotary:
        moved, launches = moved + rotary.moved, launches + rotary.launches
    weights = 0.0
    if way.half and not way.copies_once:
        weights, launches = (4 + b) * h * (4 * h + (wide + 1) * i), launches + (8 if encoder.bias else 4)
    return Work(products, attention, moved * tokens + weights, launches)


def layer_backward(encoder: EncoderConfig, tokens: float, length: float, way: Way) -> Work:
    """Count one layer's backward pass: gradients of inputs, weights and biases, and their sums with earlier micro-batches'."""
    h, i, b = encoder.hidden_size, encoder.intermediate_size, 2 if way.half else 4
    wide, drops = 2 if encoder.features.gated else 1, 2 if encoder.hidden_dropout else 0
    forward = layer_forward(encoder, tokens, length, way)
    matrices, vectors = 4, (4 + 4 if encoder.bias else 2)
    biases = b * (5 * h + wide * i) if encoder.bias else 0
    stacked = 6 * h * b  # the gradients of queries, keys and values, laid side by side
    norms = 2 * (3 * 4 + 2 * 4) * h  # the second kernel, for the weights, reads again what the first has read
    activation = (13 if wide == 2 else 3) * b * i
    if way.compiled:
        moved: float = norms + (2 * wide + 1) * b * i + biases + stacked + 2 * h * (2 * b + 4)
        launches = 12.0 + matrices + vectors
        rotary = Work(moved=4 * b * h, launches=1)
    else:
        casts = 4 * (4 + b) * h if way.half else 0  # of the residual stream's gradient down, and of the sub-layers' up
        moved = norms + activation + biases + stacked + casts + drops * (2 * b + 1) * h + 2 * 12 * h
        launches = 15.0 + (4 if way.half else 0) + drops + matrices + vectors
        launches += (4 if encoder.bias else 0) + (1 if way.half else 0) + 3 * (wide - 1)
        rotary = Work(moved=114 * h, launches=14)
    if encoder.rotary:
        moved, launches = moved + rotary.moved, launches + rotary.launches
    if way.half and not way.copies_once:
        launches += 7 if encoder.bias else 3
    sums = (
        (b + 4 + (12 if way.half else 8)) * h * (4 * h + (wide + 1) * i)
    )  # out of 16 bits, added to earlier micro-batches'
    again = forward if way.recompute else Work()
    return Work(2 * forward.products, 2.5 * forward.attention, moved * tokens + sums, launches) + again


def head(encoder: EncoderConfig, predicted: float, way: Way) -> Work:
    """Count the masked-LM head, forward and backward, with its loss at once or, of many logits, in blocks (`kernels.cross_entropy`)."""
    h, v, b = encoder.hidden_size, encoder.vocab_size, 2 if way.half else 4
    logits = predicted * v
    dense = Work(2 * 3 * h * (h + v) * predicted, 0.0, 60 * h * predicted, 24)
    if logits <= 2 * BLOCK_LOGITS:  # in 16 bits and in float32, largest, log-softmax, its gradient and theirs
        return dense + Work(moved=(24 + 12 * b) * logits + 3 * (4 + b) * h * v, launches=14)
    rows = BLOCK_LOGITS // v
    blocks = -(-predicted // max(rows // 16 * 16 or rows, 1))
    # Of a logit in float32: made of 16 bits, read for its row's largest value twice and for the probabilities' largest, softmax and
    # gradient read and written, made 16 bits again and summed by columns. Of the decoder's gradient: each block's added to the sum.
    moved = (28 + 7 * b) * logits + (8 + b) * h * v * blocks + 2 * (4 + b) * h * v
    return dense + Work(moved=moved, launches=30 * blocks + 14)


def optimizer(parameters: float, state: int) -> Work:
    """Count a step of a fused optimiser: the norm read, the gradient clipped, weights and `state` tensors of moments moved; float32."""
    return Work(moved=4.0 * parameters * (1 + 2 + 1 + 2 + 2 * state), launches=40)


def step(
    encoder: EncoderConfig, tokens: float, length: float, predicted: float, way: Way, *, last_rows: float | None = None
) -> Work:
    """Count one micro-batch, forward and backward, of `tokens` tokens; the last layer's end at `last_rows` rows alone, if given."""
    layers = layer_forward(encoder, tokens, length, way) + layer_backward(encoder, tokens, length, way)
    total = layers * encoder.num_hidden_layers + head(encoder, predicted, way)
    if last_rows is None:
        return total
    h, wide = encoder.hidden_size, 2 if encoder.features.gated else 1
    saved = 3 * 2 * h * (h + (wide + 1) * encoder.intermediate_size) * (tokens - last_rows)
    return Work(total.products - saved, total.attention, total.moved, total.launches)
