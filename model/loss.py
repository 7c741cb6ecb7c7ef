"""Cross-entropy fused with the projection onto the vocabulary: logits exist for a block of positions at a time, and never their gradient.

For m positions and v pieces the plain way holds logits, their float32 copy, their log-softmax and two gradients at once: 16 bytes a number,
1.0 GB for 1,229 positions (8,192 tokens) and 50,048 pieces. Here a block's logits become its gradient in place, which is multiplied out at
once (the idea of Wijmans et al. 2024, "Cut your losses", arXiv 2411.09009, without a kernel of its own).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from biolm.model.linear import linear, matmul

BLOCK = 1 << 25  # logits at a time: 128 MB of float32
LARGE = (
    2 * BLOCK
)  # logits from which on it is worth it: for 1,229 positions 0.9 GB less, and the head takes 1.1 to 1.2 times as long
FP16_SCALE = 1024.0  # on probabilities, the smallest of which fp16 would lose


def linear_cross_entropy(
    x_mh: Tensor, weight_vh: Tensor, bias_v: Tensor, labels_m: Tensor, block: int = BLOCK
) -> tuple[Tensor, Tensor]:
    """Sum of cross-entropies (nats) of `x weightᵀ + bias` against the labels, and how many labels have the highest logit.

    Args:
        x_mh: What the decoder sees.
        weight_vh: Its matrix.
        bias_v: Its bias.
        labels_m: The right pieces, int64.
        block: Logits to hold at a time.
    """
    device = x_mh.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_mh.dtype
    with torch.autocast(device, enabled=False):
        loss, right = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            x_mh.to(dtype), weight_vh.to(dtype), bias_v.float(), labels_m, max(1, block // len(weight_vh))
        )
    return loss, right


def cross_entropy(logits_mv: Tensor, labels_m: Tensor) -> tuple[Tensor, Tensor]:
    """The same from logits that are there already: [m, v]."""
    loss = F.cross_entropy(logits_mv.float(), labels_m, reduction="sum")
    scores_mv = logits_mv.detach()
    best_m = scores_mv.amax(-1)  # on a CPU 19 times as fast as argmax, which took a tenth of a small step
    return loss, (scores_mv.gather(1, labels_m[:, None])[:, 0] == best_m).sum()


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_mh: Tensor, weight_vh: Tensor, bias_v: Tensor, labels_m: Tensor, rows: int
    ) -> tuple[Tensor, Tensor]:
        loss, right = x_mh.new_zeros((), dtype=torch.float32), torch.zeros((), dtype=torch.int64, device=x_mh.device)
        learns = any(ctx.needs_input_grad)
        scale = FP16_SCALE if x_mh.dtype == torch.float16 else 1.0
        dx_mh = torch.empty_like(x_mh) if learns else None
        dweight_vh: Tensor | None = None
        dbias_v = torch.zeros_like(bias_v)
        blocks = zip(torch.split(x_mh, rows), torch.split(labels_m, rows), strict=True)
        for start, (x_rh, labels_r) in zip(range(0, len(x_mh), rows), blocks, strict=True):
            logits_rv = linear(x_rh, weight_vh, bias_v.to(x_mh.dtype)).float()
            q_rv = F.softmax(logits_rv, dim=-1)  # by its logarithm it would take a CPU's slow `exp_` besides
            own_r1, best_r1 = logits_rv.gather(1, labels_r[:, None]), logits_rv.amax(-1, keepdim=True)
            right += (own_r1 == best_r1).sum()
            loss += (best_r1 - q_rv.amax(-1, keepdim=True).log() - own_r1).sum()
            if dx_mh is None:
                continue
            gradient_rv = q_rv.scatter_add_(1, labels_r[:, None], torch.full_like(own_r1, -1.0))
            dbias_v += gradient_rv.sum(0)
            half_rv = gradient_rv.mul_(scale).to(x_mh.dtype)
            dx_mh[start : start + rows] = matmul(half_rv, weight_vh)
            part_vh = matmul(half_rv.t(), x_rh)
            dweight_vh = part_vh if dweight_vh is None else dweight_vh.float().add_(part_vh)
        ctx.scale = scale
        ctx.save_for_backward(dx_mh, dweight_vh, dbias_v)
        ctx.mark_non_differentiable(right)
        return loss, right

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dx_mh, dweight_vh, dbias_v = ctx.saved_tensors
        factor = grads[0] / ctx.scale
        return dx_mh * factor, dweight_vh * factor, dbias_v * grads[0], None, None
