"""Cross-entropy fused with the projection onto the vocabulary: logits become their gradient in place.

For m positions and v pieces the plain way holds logits, their float32 copy, their log-softmax and two gradients at once: 16 bytes a number,
1.0 GB for 1,229 positions (8,192 tokens) and 50,048 pieces. Here there is one of them. Many positions go in blocks, whose gradient is
multiplied out at once (the idea of Wijmans et al. 2024, "Cut your losses", arXiv 2411.09009, without a kernel of its own).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from biomlm.model.kernels.linear import linear, matmul

BLOCK = 1 << 25  # logits at a time: 128 MB of float32
LARGE = (
    2 * BLOCK
)  # logits from which on blocks are worth it: for 1,229 positions 0.9 GB less for 1.1 to 1.2 times the head's time
NO_LABEL = -100  # of a row that does not count, as torch's cross-entropy has it
SUMS_IN_FP32 = hasattr(torch.ops.aten.mm, "dtype")  # fp16 products with a float32 result, on CUDA, from torch 2.8 on


def linear_cross_entropy(
    x_mh: Tensor, weight_vh: Tensor, bias_v: Tensor, labels_m: Tensor, block: int = BLOCK, *, slope: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Compute the sum of cross-entropies (nats) of `x weightᵀ + bias` against the labels, and how many labels have the highest logit.

    Args:
        x_mh: What the decoder sees.
        weight_vh: Its matrix.
        bias_v: Its bias.
        labels_m: The right pieces, int64, or `NO_LABEL`.
        block: Logits to hold at a time.
        slope: What the sum will be multiplied by before its backward pass: the loss scale over what the step's mean is taken of. In fp16
            the gradient by the logits is held times this, as autograd would hold it, so that its small values survive and a lower loss
            scale ends an overflow.
    """
    device, pieces = x_mh.device.type, len(weight_vh)
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_mh.dtype
    with torch.autocast(device, enabled=False):
        # What is summed over fp16 rows stays float32 up to the parameter, so that one is cast inside.
        cast_vh = weight_vh if dtype == torch.float16 else weight_vh.to(dtype)
        inputs = x_mh.to(dtype), cast_vh, bias_v.float(), labels_m, slope
        if len(labels_m) * pieces <= 2 * block:
            loss, right = _Whole.apply(*inputs)  # type: ignore[no-untyped-call]
        else:
            rows = max(1, block // pieces)
            loss, right = _Blocks.apply(*inputs, rows // 16 * 16 or rows)  # type: ignore[no-untyped-call]
    return loss, right


def logits(x_mh: Tensor, weight_vh: Tensor, bias_v: Tensor) -> Tensor:
    """Compute `x weightᵀ + bias`, [m, v], in the precision of autocast; in fp16 what is summed over rows for a gradient is float32."""
    device = x_mh.device.type
    if not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) != torch.float16:
        return linear(x_mh, weight_vh, bias_v)
    with torch.autocast(device, enabled=False):
        return _Logits.apply(x_mh.half(), weight_vh, bias_v)  # type: ignore[no-any-return, no-untyped-call]


def cross_entropy(logits_mv: Tensor, labels_m: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the same from logits [m, v] that exist already."""
    loss = F.cross_entropy(logits_mv.float(), labels_m, reduction="sum")
    return loss, is_predicted(logits_mv.detach(), labels_m).sum()


def is_predicted(scores_mv: Tensor, labels_m: Tensor) -> Tensor:
    """Tell which labels are what argmax predicts, [m]: of equal scores, which bf16 often has, the first one counts.

    On a CPU two maxima take a fifth of argmax's time, which was a tenth of a small step. The second one is that of the other pieces, for
    which the labels' scores are taken out of `scores_mv` and put back.
    """
    if scores_mv.device.type != "cpu":
        return scores_mv.argmax(-1) == labels_m
    labels_m1 = labels_m.clamp_min(0)[:, None]
    own_m1, best_m = scores_mv.gather(1, labels_m1), scores_mv.amax(-1)
    other_m = scores_mv.scatter_(1, labels_m1, -torch.inf).amax(-1)
    scores_mv.scatter_(1, labels_m1, own_m1)
    right_m = (own_m1[:, 0] == best_m) & (labels_m != NO_LABEL)
    tied = (right_m & (other_m == best_m)).nonzero()[:, 0]
    right_m[tied] = scores_mv[tied].argmax(-1) == labels_m[tied]
    return right_m


def _gradient(
    x_rh: Tensor, weight_vh: Tensor, bias_v: Tensor, labels_r: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the summed loss, the number of right predictions, and the loss's gradient by the logits [r, v], in fp16 times `slope`."""
    logits_rv = linear(x_rh, weight_vh, bias_v.to(x_rh.dtype)).float()
    counts_r1, labels_r1 = labels_r[:, None] != NO_LABEL, labels_r[:, None].clamp_min(0)
    own_r1, best_r1 = logits_rv.gather(1, labels_r1), logits_rv.amax(-1, keepdim=True)
    right = is_predicted(logits_rv, labels_r).sum()
    q_rv = torch.softmax(logits_rv, -1, out=logits_rv)  # by its logarithm it would take a CPU's slow `exp_` besides
    loss = ((best_r1 - q_rv.amax(-1, keepdim=True).log() - own_r1) * counts_r1).sum()
    gradient_rv = q_rv.scatter_add_(1, labels_r1, torch.full_like(own_r1, -1.0)).mul_(counts_r1 * _held(x_rh, slope))
    return loss, right, gradient_rv.to(x_rh.dtype)


def _held(x: Tensor, slope: float) -> float:
    """Return the factor that the gradient with respect to the logits is stored with; only fp16 needs one."""
    return slope if x.dtype == torch.float16 else 1.0


def _weight_gradient(gradient_rv: Tensor, x_rh: Tensor) -> Tensor:
    """Multiply gradientᵀ x [v, h]; for fp16 in float32, since the rows of a common label are summed."""
    if x_rh.dtype != torch.float16:
        return matmul(gradient_rv.t(), x_rh)
    if x_rh.device.type == "cpu":
        return matmul(gradient_rv.float().t(), x_rh.float())
    if SUMS_IN_FP32:
        return torch.mm(gradient_rv.t(), x_rh, out_dtype=torch.float32)
    return matmul(gradient_rv.t(), x_rh).float()


class _Logits(torch.autograd.Function):
    """`linear` with float32 gradients of weight and bias."""

    @staticmethod
    def forward(ctx: Any, x_mh: Tensor, weight_vh: Tensor, bias_v: Tensor) -> Tensor:
        weight_vh = weight_vh.to(x_mh.dtype)
        ctx.save_for_backward(x_mh, weight_vh)
        return F.linear(x_mh, weight_vh, bias_v.to(x_mh.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (x_mh, weight_vh), grad_mv = ctx.saved_tensors, grads[0]
        bias = grad_mv.sum(0, dtype=torch.float32)
        return matmul(grad_mv, weight_vh), _weight_gradient(grad_mv, x_mh), bias


class _Whole(torch.autograd.Function):
    """All positions at once: their gradient is kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x_mh: Tensor, weight_vh: Tensor, bias_v: Tensor, labels_m: Tensor, slope: float
    ) -> tuple[Tensor, Tensor]:
        weight_vh = weight_vh.to(x_mh.dtype)
        loss, right, gradient_mv = _gradient(x_mh, weight_vh, bias_v, labels_m, slope)
        ctx.save_for_backward(x_mh, weight_vh, gradient_mv)
        ctx.held = _held(x_mh, slope)
        ctx.mark_non_differentiable(right)
        return loss, right

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_mh, weight_vh, gradient_mv = ctx.saved_tensors
        factor = grads[0] / ctx.held
        dx_mh = matmul(gradient_mv, weight_vh) * factor
        dweight_vh = _weight_gradient(gradient_mv, x_mh * factor)
        return dx_mh, dweight_vh, gradient_mv.sum(0, dtype=torch.float32) * factor, None, None


class _Blocks(torch.autograd.Function):
    """A block of positions after the other: only the products with their gradients are kept."""

    @staticmethod
    def forward(
        ctx: Any, x_mh: Tensor, weight_vh: Tensor, bias_v: Tensor, labels_m: Tensor, slope: float, rows: int
    ) -> tuple[Tensor, Tensor]:
        weight_vh = weight_vh.to(x_mh.dtype)
        loss, right = x_mh.new_zeros((), dtype=torch.float32), torch.zeros((), dtype=torch.int64, device=x_mh.device)
        learns = any(ctx.needs_input_grad)
        dx_mh = torch.empty_like(x_mh) if learns else None
        dweight_vh: Tensor | None = None
        dbias_v = torch.zeros_like(bias_v)
        blocks = zip(torch.split(x_mh, rows), torch.split(labels_m, rows), strict=True)
        for start, (x_rh, labels_r) in zip(range(0, len(x_mh), rows), blocks, strict=True):
            part, right_ones, gradient_rv = _gradient(x_rh, weight_vh, bias_v, labels_r, slope)
            loss, right = loss + part, right + right_ones
            if dx_mh is None:
                continue
            dbias_v += gradient_rv.sum(0, dtype=torch.float32)
            dx_mh[start : start + rows] = matmul(gradient_rv, weight_vh)
            part_vh = _weight_gradient(gradient_rv, x_rh)
            dweight_vh = part_vh if dweight_vh is None else dweight_vh.float().add_(part_vh)
        ctx.save_for_backward(dx_mh, dweight_vh, dbias_v)
        ctx.held = _held(x_mh, slope)
        ctx.mark_non_differentiable(right)
        return loss, right

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dx_mh, dweight_vh, dbias_v = ctx.saved_tensors
        factor = grads[0] / ctx.held
        return dx_mh * factor, dweight_vh * factor, dbias_v * factor, None, None, None
